"""Messages that grow: one publication of a topic that is appended to until it ends.

A topic has a second stream for them, its growth stream: a record for the beginning of a
message, for each append and for its end. Processes with subscribers fold the records of a
topic into the messages that are growing (``feed``). They send the appends to subscribers,
and the text so far to new ones. The topic's own stream gets one publication with the
whole text when the message has ended.
"""
