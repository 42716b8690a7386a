import http.client, socket, ssl, sys
# Asks for what its arguments say, each "scheme host", with "@address" where it is sought elsewhere than where its name leads, and
# with "!" where certificates are not looked at. A line for each says what came of it.
def ask(scheme, host, at="", looks=True):
    stream = socket.create_connection((at or host, 443 if scheme == "https" else 80), 8)
    if scheme == "https":
        context = ssl.create_default_context()
        if not looks:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = context.wrap_socket(stream, server_hostname=host)
    stream.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nX-Key: mine\r\nConnection: close\r\n\r\n" % host.encode())
    answer = http.client.HTTPResponse(stream)
    answer.begin()
    return answer.read().decode().strip()
for wanted in sys.argv[1:]:
    scheme, _, host = wanted.rstrip("!").partition(" ")
    host, _, at = host.partition("@")
    try:
        print(ask(scheme, host, at, not wanted.endswith("!")))
    except ssl.SSLCertVerificationError:
        print("not believed")
    except Exception:
        print("no")
