import socket, ssl, urllib.request
def tell(what, attempt):
    try:
        print(what, attempt())
    except Exception as error:
        print(what, "no")
def request(address, host):
    with socket.create_connection((address, 80), 5) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
        return stream.recv(4096).split(b"\r\n\r\n")[1].decode()
def hello(address, name):
    context = ssl.create_default_context()
    with socket.create_connection((address, 443), 5) as stream:
        context.wrap_socket(stream, server_hostname=name)
def ask(address, name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.settimeout(2)
        question = b"\0\7\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
        stream.sendto(question + b"\0\0\1\0\1", (address, 53))
        return stream.recv(1500)[3] & 15
tell("before it was asked for", lambda: request("203.0.113.2", "good.test"))
tell("by name", lambda: urllib.request.urlopen("http://good.test/", timeout=5).read().decode())
tell("address", lambda: socket.gethostbyname("good.test"))
tell("another name", lambda: socket.gethostbyname("other.test"))
tell("another name, asked directly", lambda: ask("169.254.0.22", "secret.other.test"))
tell("another resolver", lambda: ask("203.0.113.2", "direct.good.test"))
tell("the host's resolver", lambda: ask("10.66.0.1", "direct.good.test"))
tell("a name that leads inwards", lambda: socket.gethostbyname("rebind.good.test"))
tell("another host at the same address", lambda: request("203.0.113.2", "other.test"))
tell("the right host at another address", lambda: request("203.0.113.3", "good.test"))
tell("an address alone", lambda: request("203.0.113.3", "203.0.113.3"))
tell("a hello to the right server", lambda: hello("203.0.113.2", "good.test"))
tell("a hello to another", lambda: hello("203.0.113.2", "dns.google"))
tell("another port", lambda: socket.create_connection(("203.0.113.2", 8080), 3).close())
