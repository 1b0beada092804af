"""Messages that grow: one publication of a topic that is appended to until it ends.

A topic has a second stream for them, its growth stream: a record for the beginning of a
message, for each append and for its end. Processes with subscribers fold the records of a
topic into the messages that are growing (``feed``), send the appends to the subscribers,
and the whole text so far to those that come later. The topic's own stream gets one
publication when the message has ended, with the whole text.
"""
