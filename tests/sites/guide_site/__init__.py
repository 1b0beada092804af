"""A site that is built the way the guide teaches, slips included.

Written for Channels, apart from the one line below. Consumers, views, tasks, signals
and scripts have the shapes of the guide's samples and words of their own.
"""

import tiderace

tiderace.install_as_channels()
