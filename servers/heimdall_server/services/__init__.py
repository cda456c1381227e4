"""One folder a service: servicer (the RPC), translate (wire to domain and back), logic (the use case)."""
