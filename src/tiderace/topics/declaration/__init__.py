"""The classes with which an application declares topics, and the checks of them."""
