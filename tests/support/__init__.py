"""What several tests share: clients, servers, brokers, clocks and waiting."""
