"""What a WSGI server of others runs in a process of its own, on the store that the environment names."""

import os
import socket
import sys

from encore.storage.opener import open_store
from encore.storage.server import StoreApplication

store = open_store(os.environ["STORE"], options={"durability": "process"})
store.connect()
application = StoreApplication(store)

if __name__ == "__main__":
    import waitress

    waitress.serve(application, sockets=[socket.socket(fileno=int(sys.argv[1]))], threads=8)
