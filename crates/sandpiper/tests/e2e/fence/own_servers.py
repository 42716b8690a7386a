import socket, struct, sys, urllib.request
def tell(attempt):
    try:
        return str(attempt())
    except OSError:
        return "no"
def ask(name):
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(3)
        udp.sendto(question, ("203.0.113.2", 53))
        return udp.recv(1500)[3] & 15
found = tell(lambda: socket.gethostbyname("good.test"))
fetched = tell(lambda: urllib.request.urlopen("http://good.test/", timeout=5).read().decode())
print(found, tell(lambda: ask("good.test")), tell(lambda: ask("other.test")), fetched)
