"""The store in etcd. `client.py` alone imports gRPC (0.2 s, 35 MB, threads), so only a master whose store is etcd does."""
