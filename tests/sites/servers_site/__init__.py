"""A project written for Channels, with the one line that runs it on Tiderace."""

import tiderace

tiderace.install_as_channels()
