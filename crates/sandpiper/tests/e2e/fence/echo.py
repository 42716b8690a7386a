import http.server, socket, ssl, sys, threading
# At ports 80 and 443 of two addresses, with a certificate for each. It answers how it was asked, and what for.
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        keys = ",".join(self.headers.get_all("x-key", []))
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        said = "%s %s %s %s" % (scheme, self.connection.getsockname()[0], self.headers["host"], keys)
        log.write("echo %s\n" % said)
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())
    def log_message(self, *_):
        pass
log = open(sys.argv[1], "a", buffering=1)
for address, certificate in [("203.0.113.2", sys.argv[2]), ("203.0.113.3", sys.argv[3])]:
    for port in [80, 443]:
        server = http.server.ThreadingHTTPServer((address, port), Echo)
        if port == 443:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever).start()
log.write("echoing\n")
