import socket, ssl, sys, threading
log = open(sys.argv[1], "a", buffering=1)
def serve(connection):
    def take(count):
        data = b""
        while len(data) < count:
            data += connection.recv(count - len(data)) or sys.exit()
        return data
    assert 2 in take(take(2)[1])
    connection.sendall(b"\5\2")
    user, password = take(take(2)[1]), take(take(1)[0])
    if password != b"correct horse":
        return connection.sendall(b"\1\1")
    connection.sendall(b"\1\0")
    kind = take(4)[3]
    host = take(take(1)[0]).decode() if kind == 3 else socket.inet_ntoa(take(4))
    log.write("socks %s %s:%d\n" % (user.decode(), host, int.from_bytes(take(2), "big")))
    connection.sendall(b"\5\0\0\1" + bytes(6))
    asked = connection.recv(4096).lower().split(b"\r\n")
    keys = b"".join(b" with" + line.partition(b":")[2] for line in asked if line.startswith(b"x-key:"))
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nby proxy" + keys)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
def start(connection, wrap):
    try:
        with wrap(connection) as connection:
            serve(connection)
    except (OSError, AssertionError):
        pass
def accept(port, wrap):
    listener = socket.create_server(("0.0.0.0", port))
    log.write("proxy at %d\n" % port)
    while True:
        threading.Thread(target=start, args=(listener.accept()[0], wrap)).start()
threading.Thread(target=accept, args=(1443, lambda plain: context.wrap_socket(plain, server_side=True))).start()
accept(1080, lambda plain: plain)
