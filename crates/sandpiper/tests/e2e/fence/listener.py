import selectors, socket, struct, sys
log = open(sys.argv[1], "a", buffering=1)
names = {"good.test": "203.0.113.2", "other.test": "203.0.113.3", "rebind.good.test": "10.66.0.1",
         "proxy.test": "203.0.113.2", "inside.test": "10.66.0.1"}
def datagrams(address, port):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, port))
    udp.setsockopt(socket.IPPROTO_IP, 8, 1)
    return udp
def answer(question):
    at, labels = 12, []
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode())
        at += 1 + question[at]
    name, end = ".".join(labels), at + 5
    log.write("name %s\n" % name)
    found = names.get(name)
    header = question[:2] + struct.pack("!HHHHH", 0x8180 if found else 0x8183, 1, 1 if found else 0, 0, 0)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(found) if found else b""
    return header + question[12:end] + record
tcp = {}
if len(sys.argv) == 2:
    tcp = {socket.create_server(("0.0.0.0", port)): word for port, word in [(80, "tcp"), (443, "tls")]}
probes = datagrams("0.0.0.0", 80)
questions = {datagrams("10.66.0.1", 53): "host", datagrams("203.0.113.2", 53): "own"}
selector = selectors.DefaultSelector()
for one in [*tcp, probes, *questions]:
    selector.register(one, selectors.EVENT_READ)
log.write("listening\n")
while True:
    for key, _ in selector.select():
        one = key.fileobj
        if one in tcp:
            connection, _ = one.accept()
            log.write("%s %s\n" % (tcp[one], connection.getsockname()[0]))
            selector.register(connection, selectors.EVENT_READ)
        elif one is probes:
            _, control, _, _ = one.recvmsg(100, 100)
            log.write("udp %s\n" % socket.inet_ntoa(control[0][2][8:12]))
        elif one in questions:
            question, whence = one.recvfrom(1500)
            log.write("asked %s\n" % questions[one])
            one.sendto(answer(question), whence)
        else:
            try:
                data = one.recv(4096)
            except OSError:
                data = b""
            if data.startswith(b"GET"):
                one.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
            if not data or data.startswith(b"GET"):
                selector.unregister(one)
                one.close()
