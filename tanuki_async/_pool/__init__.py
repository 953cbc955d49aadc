"""What all calls share: connections, gates, limits, retries."""
