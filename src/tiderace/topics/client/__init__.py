"""One connected client of the topics' protocol: commands, subscriptions, outbox."""
