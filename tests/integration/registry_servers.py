# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Registries to pull from: Debian's docker-registry, one that answers as a test wants,
a line that breaks, a token server.

All listen on 127.0.0.1 on ports that the kernel picks, and end with the test.
"""
import base64
import crypt
import gzip
import hashlib
import http.client
import http.server
import json
import os
import random
import re
import selectors
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Image:
    """What a registry keeps of one image: blobs by digest, the manifest's bytes."""

    def __init__(self, layers, config=None, suffix="", diff_ids=None):
        stored = [gzip.compress(t, 1, mtime=0) if suffix == "+gzip" else t for t in layers]
        self.config = json.dumps({"os": "linux", "architecture": ARCHITECTURE, **(config or {}), "rootfs": {
            "type": "layers", "diff_ids": diff_ids or [digest(t) for t in layers]}}).encode()
        self.layers = [digest(b) for b in stored]
        self.blobs = {digest(b): b for b in stored + [self.config]}
        self.document = {
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(self.config), "size": len(self.config)},
            "layers": [{"mediaType": LAYER + suffix, "digest": digest(b), "size": len(b)} for b in stored]}

    @property
    def manifest(self):
        return json.dumps(self.document).encode()


def make_index(*entries):
    """entries: (manifest's bytes, platform or None)"""
    manifests = []
    for body, platform in entries:
        d = {"mediaType": json.loads(body).get("mediaType", MANIFEST), "digest": digest(body), "size": len(body)}
        manifests.append({**d, "platform": platform} if platform else d)
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


# ---- the real one ----

class Registry:
    """Debian's docker-registry."""

    def __init__(self, directory, storage=None, users=None, tls=None, token=None):
        directory.mkdir(exist_ok=True)
        config = {"version": 0.1, "log": {"level": "info", "accesslog": {"disabled": True}},
                  "storage": {"filesystem": {"rootdirectory": str(storage or directory / "storage")}},
                  "http": {"addr": "127.0.0.1:0", "secret": "not one"}}
        if users:
            salt = crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)
            lines = "".join(f"{user}:{crypt.crypt(password, salt)}\n" for user, password in users.items())
            (directory / "htpasswd").write_text(lines.replace("$2b$", "$2y$"))
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
        if token:
            config["auth"] = {"token": token}
        if tls:
            config["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        (directory / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        self.process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.yml")],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True)
        for line in self.process.stderr:
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                self.address = f"127.0.0.1:{self.port}"
                break
        else:
            raise AssertionError("docker-registry did not start")
        self.drain = threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True)
        self.drain.start()

    def put(self, repository, tag, image):
        """Uploads an Image, or the bytes of an index, over the API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)

        def request(method, path, body=None, headers=None, expect=201):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == expect, (method, path, answer.status, text)
            return answer
        for name, blob in image.blobs.items() if isinstance(image, Image) else ():
            where = request("POST", f"/v2/{repository}/blobs/uploads/", expect=202).headers["Location"]
            path = where[where.index("/v2/"):]
            request("PUT", f"{path}&digest={name}", blob, {"Content-Type": "application/octet-stream"})
        body = image.manifest if isinstance(image, Image) else image
        request("PUT", f"/v2/{repository}/manifests/{tag or digest(body)}", body,
                {"Content-Type": json.loads(body)["mediaType"]})
        connection.close()
        return digest(body)

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        self.drain.join()
        self.process.stderr.close()


class Certificate:
    """A certificate authority and a certificate for 127.0.0.1, by openssl."""

    def __init__(self, directory):
        self.ca, ca_key = directory / "ca.pem", directory / "ca.key"
        self.certificate, self.key = directory / "server.pem", directory / "server.key"
        request, extensions = directory / "server.csr", directory / "server.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        for argv in (
                [*new, "-x509", "-days", "1", "-keyout", ca_key, "-out", self.ca, "-subj", "/CN=Test CA"],
                [*new, "-keyout", self.key, "-out", request, "-subj", "/CN=127.0.0.1"],
                ["openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial",
                 "-days", "1", "-extfile", extensions, "-out", self.certificate]):
            subprocess.run(argv, check=True, capture_output=True)


# ---- what its users do ----

def skopeo_fill(archive, registry, name, *options):
    subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", *options, f"oci-archive:{archive}",
                    f"docker://{registry.address}/{name}"], check=True, capture_output=True)


def credentials(path, host, user, password):
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return str(path)


# ---- the one that answers as a test wants ----

class FakeRegistry:
    """Serves images by the rules of the API, except where `rules` (path -> function of the handler) says otherwise.

    A rule answers the request itself and returns True, or returns False to let the ordinary answer be given.
    requests: (method, path, headers) of all that came.
    """

    def __init__(self, tls=None):
        self.documents, self.blobs, self.rules, self.requests = {}, {}, {}, []
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                registry.requests.append((self.command, self.path, self.headers))
                rule = registry.rules.get(self.path.partition("?")[0])
                if rule is None or not rule(self):
                    registry.serve(self)

            do_POST = do_GET

            def log_message(self, *args):
                pass

            def answer(self, status=200, body=b"", headers=None, length=None):
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)
                return True

            def endless(self, headers=None):
                """A body without an end."""
                self.send_response(200)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
                try:
                    for _ in range(4096):
                        self.wfile.write(chunk)
                except OSError:
                    self.close_connection = True
                return True

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass  # clients that go away are what is tested

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        self.url = ("https://" if tls else "http://") + self.address
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def put(self, name, tag, image):
        """An Image, or the bytes of a document."""
        body = image.manifest if isinstance(image, Image) else image
        if isinstance(image, Image):
            self.blobs.update({f"/v2/{name}/blobs/{d}": b for d, b in image.blobs.items()})
        for key in (tag, digest(body)):
            self.documents[f"/v2/{name}/manifests/{key}"] = body

    def serve(self, handler):
        path = handler.path
        if path in self.documents:
            body = self.documents[path]
            try:
                kind = json.loads(body).get("mediaType", MANIFEST)
            except (ValueError, AttributeError):
                kind = MANIFEST
            return handler.answer(200, body, {"Content-Type": kind})
        if path not in self.blobs:
            return handler.answer(404, b'{"errors": [{"code": "UNKNOWN", "message": "nothing here"}]}')
        return self.serve_range(handler, self.blobs[path])

    @staticmethod
    def serve_range(handler, blob, etag=None):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        headers = {"ETag": etag} if etag else {}
        if not asked or (etag and handler.headers.get("If-Range", etag) != etag):
            return handler.answer(200, blob, headers)
        start = int(asked[1])
        headers["Content-Range"] = f"bytes {start}-{len(blob) - 1}/{len(blob)}"
        return handler.answer(206, blob[start:], headers)

    def count(self, part):
        return sum(part in path for _, path, _ in self.requests)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


# ---- a line that breaks ----

class BreakingProxy:
    """Passes connections on to a port, and breaks each after a random number of bytes from there."""

    def __init__(self, port, at=(100_000, 1_500_000), seed=1):
        self.port, self.at, self.random = port, at, random.Random(seed)
        self.breaks = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.threads = []
        self.acceptor = threading.Thread(target=self.accept)
        self.acceptor.start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(client,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def serve(self, client):
        with self.lock:
            left = self.random.randint(*self.at)
        to = ("127.0.0.1", self.port)
        with client, socket.create_connection(to) as server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    try:
                        data = key.fileobj.recv(65536)
                        if key.fileobj is server:
                            data = data[:left]
                            left -= len(data)
                        if not data and left > 0:
                            return
                        key.data.sendall(data)
                    except OSError:
                        return
                    if left <= 0:
                        with self.lock:
                            self.breaks += 1
                        # A reset, not an orderly end.
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        return

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.acceptor.join()
        for thread in self.threads:
            thread.join(5)


# ---- a token server for the real registry ----

class TokenServer:
    """Gives out the tokens that docker-registry's token authentication checks (a JWT signed with RS256)."""

    def __init__(self, directory, users):
        self.key, self.certificate = directory / "token.key", directory / "token.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", self.key,
                        "-out", self.certificate, "-subj", "/CN=tokens"], check=True, capture_output=True)
        self.users, self.issued = users, 0
        self.server = FakeRegistry()
        self.server.rules["/token"] = self.answer
        self.auth = {"realm": f"http://{self.server.address}/token", "service": "the service", "issuer": "test",
                     "rootcertbundle": str(self.certificate)}

    def answer(self, handler):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(handler.path).query)
        assert query["service"] == ["the service"], query
        kind, name, actions = query["scope"][0].split(":")
        who = handler.headers.get("Authorization", "")
        if who and base64.b64decode(who.removeprefix("Basic ")).decode().partition(":")[::2] not in self.users.items():
            return handler.answer(401, b'{"details": "wrong password"}')
        allowed = actions.split(",") if who else []
        self.issued += 1
        return handler.answer(200, json.dumps({"token": self.sign(name, kind, allowed)}).encode())

    def sign(self, name, kind, actions):
        now = int(time.time())
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {"iss": "test", "sub": "", "aud": "the service", "exp": now + 60, "nbf": now - 10, "iat": now,
                  "jti": str(self.issued), "access": [{"type": kind, "name": name, "actions": actions}]}
        signed = b".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in (header, claims))
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=signed, check=True,
                                   capture_output=True).stdout
        return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()

    def close(self):
        self.server.close()
