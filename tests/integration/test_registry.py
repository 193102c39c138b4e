# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Pulls by capsule-image from real and from hostile registries."""
import json
import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import pytest

import images
from registry_servers import (ARCHITECTURE, BreakingProxy, Certificate, FakeRegistry, Image, Registry, TokenServer,
                              credentials, digest, make_index, skopeo_fill)

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CAPSULE_BUILD", TOP / "build")).resolve()
WORKER = BUILD / "src/imager/capsule-image"
OTHER = "s390x" if ARCHITECTURE != "s390x" else "amd64"


class Result:
    def __init__(self, code, stdout, stderr):
        self.code, self.stderr = code, stderr
        self.lines = [json.loads(line) for line in stdout.decode().splitlines()]
        self.progress = [x["progress"] for x in self.lines if "progress" in x]
        self.images = [x["image"] for x in self.lines if "image" in x]
        errors = [x["error"] for x in self.lines if "error" in x]
        assert len(errors) <= 1 and (not errors or "error" in self.lines[-1])
        self.error = errors[0] if errors else None

    def ok(self):
        assert self.code == 0 and self.error is None, (self.code, self.error, self.stderr)
        assert len(self.images) == 1, self.images
        return self.images[0]

    def failed(self, code, *words):
        assert self.code == 1 and self.error and not self.images, (self.code, self.lines, self.stderr)
        for word in words:
            assert word in self.error["message"], self.error
        assert self.error["code"] == code, self.error
        assert "\n" not in self.error["message"]
        return self.error["message"]


class Store:
    def __init__(self, directory):
        self.root, self.config = directory / "root", directory / "registries.json"
        self.root.mkdir()

    def argv(self, reference, **config):
        argv = [WORKER, "pull", "--root", self.root]
        if config:
            self.config.write_text(json.dumps(config))
            argv += ["--registries", self.config]
        return argv + ["--", reference]

    def pull(self, reference, timeout=60, **config):
        done = subprocess.run(self.argv(reference, **config), capture_output=True, timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr)

    def index(self):
        path = self.root / "images/index.json"
        found = json.loads(path.read_text())["manifests"] if path.exists() else []
        return {m["annotations"]["org.opencontainers.image.ref.name"]: m["digest"] for m in found}

    def layers(self):
        return sorted(p.name for p in (self.root / "layers").iterdir() if not p.name.startswith("."))

    def check(self, reference):
        """What the image store holds is a layout that skopeo takes apart and finds whole."""
        found = self.index()[reference]
        copy = self.root / "copy"
        only = self.root / "only"
        only.mkdir()
        os.symlink(self.root / "images/blobs", only / "blobs")
        (only / "oci-layout").write_text((self.root / "images/oci-layout").read_text())
        index = json.loads((self.root / "images/index.json").read_text())
        index["manifests"] = [m for m in index["manifests"] if m["digest"] == found]
        (only / "index.json").write_text(json.dumps(index))
        subprocess.run(["skopeo", "copy", "-q", f"oci:{only}", f"dir:{copy}"], check=True, capture_output=True)
        out = subprocess.run(["skopeo", "inspect", f"oci:{only}"], check=True, capture_output=True).stdout
        assert json.loads(out)["Digest"] == found

    def is_empty(self):
        """Nothing is kept of a pull that failed but whole blobs, which the next collection takes."""
        assert self.index() == {}
        temporary = [p for d in ("images", "images/blobs/sha256", "layers") if (self.root / d).exists()
                     for p in (self.root / d).iterdir() if p.name.startswith(".tmp-")]
        assert not temporary, temporary


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture(scope="module")
def busybox(tmp_path_factory):
    path = tmp_path_factory.mktemp("busybox") / "busybox.tar"
    images.make_busybox_image(str(path), "busybox:1", fmt="oci", compression="gzip")
    return path


def small_image(text=b"hello\n", **kwargs):
    return Image([images.layer_tar([images.Dir("/etc"), images.File("/etc/motd", text)])], **kwargs)


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def big_image(layers=3, size=4_000_000, suffix="+gzip"):
    """Bytes that no compression makes smaller."""
    return Image([images.layer_tar([images.File(f"/data{i}", noise(size, i))]) for i in range(layers)], suffix=suffix)


# ---- real registries ----

def test_pull_what_skopeo_put(store, registry, busybox):
    skopeo_fill(busybox, registry, "tools/busybox:1")
    image = store.pull(f"{registry.address}/tools/busybox:1").ok()
    assert image["reference"] == f"{registry.address}/tools/busybox:1"
    assert store.index() == {image["reference"]: image["digest"]}
    store.check(image["reference"])
    layers = store.layers()
    assert len(layers) == 2
    unpacked = [store.root / "layers" / x for x in layers]
    assert any((u / "bin/sh").is_symlink() for u in unpacked) and any((u / "etc/passwd").exists() for u in unpacked)


def test_docker_schema_2(store, registry, busybox):
    skopeo_fill(busybox, registry, "busybox:1", "--format", "v2s2")
    image = store.pull(f"{registry.address}/busybox:1").ok()
    store.check(image["reference"])


def test_digest_reference(store, registry):
    found = registry.put("app", "1", small_image())
    image = store.pull(f"{registry.address}/app@{found}").ok()
    assert image == {"reference": f"{registry.address}/app@{found}", "digest": found}
    store.pull(f"{registry.address}/app@{digest(b'other')}").failed("NOT_FOUND", "no such image")


def test_what_is_here_is_not_fetched(store, fake):
    fake.put("app", "1", big_image(layers=2, size=10_000))
    store.pull(f"{fake.address}/app:1").ok()
    assert fake.count("/blobs/") == 3
    store.pull(f"{fake.address}/app:1").ok()
    assert fake.count("/blobs/") == 3


def test_the_same_layer_twice(store, fake):
    layer = images.layer_tar([images.File("/x", b"x")])
    fake.put("app", "1", Image([layer, layer], suffix="+gzip"))
    store.pull(f"{fake.address}/app:1").ok()
    assert fake.count("/blobs/") == 2


def test_no_layers(store, fake):
    fake.put("app", "1", Image([]))
    store.pull(f"{fake.address}/app:1").ok()


def test_progress(store, registry):
    image = big_image(size=2_000_000)
    registry.put("app", "1", image)
    started = time.monotonic()
    result = store.pull(f"{registry.address}/app:1")
    seconds = time.monotonic() - started
    result.ok()
    total = sum(len(image.blobs[x]) for x in image.layers)
    assert {p["total"] for p in result.progress} == {total}
    done = [p["done"] for p in result.progress]
    assert done[-1] == total
    assert len(done) <= 10 * seconds + 4, (len(done), seconds)


def test_basic_credentials(store, tmp_path, closing, busybox):
    registry = closing(Registry(tmp_path / "registry", users={"ann": "s3cret:x"}))
    skopeo_fill(busybox, registry, "busybox:1", "--dest-creds", "ann:s3cret:x")
    reference, file = f"{registry.address}/busybox:1", tmp_path / "config.json"
    store.pull(reference).failed("UNAUTHENTICATED", f"registry {registry.address}: it needs credentials")
    message = store.pull(reference, credentialsFile=str(file)).failed("UNAUTHENTICATED", "it needs credentials",
                                                                      str(file))
    assert registry.address in message
    wrong = credentials(file, registry.address, "ann", "wrong")
    message = store.pull(reference, credentialsFile=wrong).failed("UNAUTHENTICATED", "refuses the credentials",
                                                                  str(file))
    assert "wrong" not in message
    store.is_empty()
    store.pull(reference, credentialsFile=credentials(file, registry.address, "ann", "s3cret:x")).ok()
    store.check(reference)


def test_bearer_tokens(store, tmp_path, closing):
    registry = closing(Registry(tmp_path / "plain", storage=tmp_path / "storage"))
    registry.put("team/app", "1", big_image(size=10_000))
    tokens = closing(TokenServer(tmp_path, {"ann": "s3cret"}))
    guarded = closing(Registry(tmp_path / "guarded", storage=tmp_path / "storage", token=tokens.auth))
    reference, file = f"{guarded.address}/team/app:1", tmp_path / "config.json"
    store.pull(reference).failed("UNAUTHENTICATED", "it needs credentials")
    wrong = credentials(file, guarded.address, "ann", "wrong")
    store.pull(reference, credentialsFile=wrong).failed("UNAUTHENTICATED", "refuses the credentials")
    tokens.issued = 0
    store.pull(reference, credentialsFile=credentials(file, guarded.address, "ann", "s3cret")).ok()
    assert tokens.issued == 1  # one token serves manifest, config and all layers


def test_tls(store, tmp_path, closing):
    certificate = Certificate(tmp_path)
    plain = closing(Registry(tmp_path / "plain", storage=tmp_path / "storage"))
    plain.put("app", "1", small_image())
    registry = closing(Registry(tmp_path / "tls", storage=tmp_path / "storage", tls=certificate))
    reference = f"{registry.address}/app:1"
    rule = {"plainHttp": False}
    store.pull(reference, registries={registry.address: rule}).failed("UNAVAILABLE", registry.address,
                                                                      "cannot be trusted")
    store.pull(reference, registries={registry.address: {**rule, "caFile": str(certificate.ca)}}).ok()


def test_mirrors(store, registry, busybox):
    """The mirror serves Docker's registry; one that is down is passed over; the registry is never asked."""
    skopeo_fill(busybox, registry, "library/busybox:1")
    mirrors = ["http://127.0.0.1:1", f"http://{registry.address}/"]
    image = store.pull("busybox:1", registries={"docker.io": {"mirrors": mirrors}})
    assert image.ok()["reference"] == "docker.io/library/busybox:1"
    assert "next try" in image.progress[0]["status"]
    store.check("docker.io/library/busybox:1")


def test_mirror_that_lacks_the_image(store, registry, fake):
    registry.put("app", "1", small_image())
    mirrors = {registry.address: {"mirrors": [fake.url]}}
    store.pull(f"{registry.address}/app:1", registries=mirrors).ok()
    assert fake.count("/v2/app/manifests/1") == 1


def test_mirror_with_damaged_content(store, registry, fake):
    """What a mirror gives is checked; what it damages comes from the registry."""
    image = big_image(layers=1, size=100_000)
    registry.put("app", "1", image)
    fake.put("app", "1", image)
    path = f"/v2/app/blobs/{image.layers[0]}"
    fake.blobs[path] = fake.blobs[path][:50_000] + bytes(len(fake.blobs[path]) - 50_000)
    store.pull(f"{registry.address}/app:1", registries={registry.address: {"mirrors": [fake.url]}}).ok()
    assert fake.count("/blobs/" + image.layers[0]) == 1
    store.check(f"{registry.address}/app:1")


# ---- platforms ----

def test_index_with_this_platform(store, registry):
    ours, theirs = small_image(b"ours\n"), small_image(b"theirs\n", config={"architecture": OTHER})
    for image in (ours, theirs):
        registry.put("app", None, image)
    index = make_index((theirs.manifest, {"os": "linux", "architecture": OTHER}),
                       (ours.manifest, {"os": "linux", "architecture": ARCHITECTURE}))
    registry.put("app", "1", index)
    image = store.pull(f"{registry.address}/app:1").ok()
    assert image["digest"] == digest(ours.manifest)
    # A reference may hold the digest of the index.
    assert store.pull(f"{registry.address}/app@{digest(index)}").ok()["digest"] == digest(ours.manifest)


def test_index_without_this_platform(store, registry):
    theirs = small_image(config={"architecture": OTHER})
    registry.put("app", None, theirs)
    registry.put("app", "1", make_index((theirs.manifest, {"os": "linux", "architecture": OTHER}),
                                        (theirs.manifest, {"os": "windows", "architecture": "amd64"})))
    store.pull(f"{registry.address}/app:1").failed(
        "FAILED_PRECONDITION", f"this machine's platform linux/{ARCHITECTURE}; it has linux/{OTHER}, windows/amd64")
    store.is_empty()


# ---- lines that break ----

def test_through_a_line_that_breaks(store, registry, closing):
    """No connection lives long enough for a whole layer: only a client that goes on where it was gets through."""
    image = big_image()
    registry.put("app", "1", image)
    proxy = closing(BreakingProxy(registry.port))
    store.pull(f"{proxy.address}/app:1").ok()
    store.check(f"{proxy.address}/app:1")
    assert proxy.at[1] < min(len(image.blobs[x]) for x in image.layers) / 2
    assert proxy.breaks >= 6


@pytest.mark.parametrize("kind", ["range", "etag", "changed etag", "ignores range", "refuses range", "no length"])
def test_resume(store, fake, kind):
    """A server that breaks each connection after a part of the layer, and the ways in which servers go on."""
    image = big_image(layers=1, size=500_000)
    fake.put("app", "1", image)
    blob, seen = image.blobs[image.layers[0]], []

    def rule(handler):
        asked = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        seen.append((asked, handler.headers.get("If-Range")))
        start = 0 if kind == "ignores range" or (kind == "changed etag" and len(seen) == 2) else asked
        if kind == "refuses range" and asked:
            return handler.answer(416)
        if kind == "refuses range":
            start = 0
        handler.close_connection = True
        handler.send_response(206 if start else 200)
        if "etag" in kind:
            handler.send_header("ETag", '"v2"' if kind == "changed etag" and len(seen) > 1 else '"v1"')
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
        if kind == "no length":
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(blob) - start))
        handler.end_headers()
        end = len(blob) if len(seen) >= 5 else 100_000 * len(seen)
        handler.wfile.write(blob[start:end])
        return True
    fake.rules[f"/v2/app/blobs/{image.layers[0]}"] = rule
    store.pull(f"{fake.address}/app:1").ok()
    assert 3 <= len(seen) <= 9
    if "etag" in kind:
        assert seen[1] == (100_000, '"v1"')
    if kind == "changed etag":
        assert seen[2][1] == '"v2"'


def test_trouble_that_passes(store, fake):
    """5xx, 429 with Retry-After, a kept connection that is closed without an answer (tried anew at once)."""
    fake.put("app", "1", small_image())
    answers = [lambda h: h.answer(503), lambda h: h.answer(429, headers={"Retry-After": "1"}),
               lambda h: setattr(h, "close_connection", True) or True, lambda h: False]
    fake.rules["/v2/app/manifests/1"] = lambda handler: answers.pop(0)(handler)
    started = time.monotonic()
    result = store.pull(f"{fake.address}/app:1")
    result.ok()
    assert not answers
    assert time.monotonic() - started >= 0.5 + 1
    assert "status 503; next try in 0.5 s" in result.progress[0]["status"]
    assert "status 429; next try in 1.0 s" in result.progress[1]["status"]


def test_a_connection_that_stalls(store, fake):
    image = big_image(layers=1, size=300_000)
    fake.put("app", "1", image)
    blob, released, tries = image.blobs[image.layers[0]], threading.Event(), []

    def rule(handler):
        tries.append(handler.headers.get("Range"))
        if len(tries) > 1:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(blob)))
        handler.end_headers()
        handler.wfile.write(blob[:100_000])
        released.wait(30)
        handler.close_connection = True
        return True
    fake.rules[f"/v2/app/blobs/{image.layers[0]}"] = rule
    try:
        store.pull(f"{fake.address}/app:1", stallTimeoutSeconds=2).ok()
    finally:
        released.set()
    assert tries == [None, "bytes=100000-"]


def test_gives_up(tmp_path, fake):
    """A registry that only fails and one that is not there: all tries, then one sentence with the host."""
    fake.rules["/v2/app/manifests/1"] = lambda handler: handler.answer(
        500, b'{"errors": [{"message": "broken\\u0007"}]}')
    gone = FakeRegistry()
    gone.close()
    addresses = [fake.address, gone.address]
    workers = []
    for name, address in zip("ab", addresses):
        (tmp_path / name).mkdir()
        workers.append(subprocess.Popen(Store(tmp_path / name).argv(f"{address}/app:1"), stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE))
    failing, absent = (Result(w.wait(), *outputs) for w, outputs in [(w, w.communicate(timeout=60)) for w in workers])
    failing.failed("UNAVAILABLE",
                   f"cannot pull {fake.address}/app:1: registry {fake.address}: it answers with status 500",
                   '("broken?")')
    absent.failed("UNAVAILABLE", f"cannot pull {gone.address}/app:1: registry {gone.address}: ", "onnect")
    assert fake.count("/manifests/1") == 6
    for result in failing, absent:
        waits = [p["status"].rpartition("next try in ")[2] for p in result.progress]
        assert waits == ["0.5 s", "1.0 s", "2.0 s", "4.0 s", "8.0 s"]


def test_wants_to_be_left_alone(store, fake):
    fake.rules["/v2/app/manifests/1"] = lambda handler: handler.answer(429, headers={"Retry-After": "3600"})
    store.pull(f"{fake.address}/app:1").failed("UNAVAILABLE", "status 429", "left alone for 3600 s")


def test_one_bad_layer_stops_the_others(store, fake):
    """A layer that cannot be had ends the pull at once, however slow the others are."""
    image = big_image(layers=3, size=100_000)
    fake.put("app", "1", image)
    released = threading.Event()
    fake.rules[f"/v2/app/blobs/{image.layers[0]}"] = lambda handler: handler.answer(404)

    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        released.wait(60)
        return True
    for layer in image.layers[1:]:
        fake.rules[f"/v2/app/blobs/{layer}"] = slow
    started = time.monotonic()
    try:
        store.pull(f"{fake.address}/app:1").failed("NOT_FOUND", f"no such layer {image.layers[0]}")
    finally:
        released.set()
    assert time.monotonic() - started < 15
    store.is_empty()


def test_killed_in_the_middle(store, fake):
    """kill -9 leaves nothing that is later taken for whole; the next pull succeeds."""
    image = big_image(layers=2, size=500_000)
    fake.put("app", "1", image)
    half, released = threading.Event(), threading.Event()
    blob = image.blobs[image.layers[1]]

    def rule(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(blob)))
        handler.end_headers()
        handler.wfile.write(blob[:250_000])
        half.set()
        released.wait(30)
        return True
    fake.rules[f"/v2/app/blobs/{image.layers[1]}"] = rule
    worker = subprocess.Popen(store.argv(f"{fake.address}/app:1"), stdout=subprocess.DEVNULL)
    assert half.wait(30)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    released.set()
    assert store.index() == {}
    fake.rules.clear()
    store.pull(f"{fake.address}/app:1").ok()
    store.check(f"{fake.address}/app:1")
    assert len(store.layers()) == 2


# ---- redirects and credentials ----

def test_redirect_keeps_credentials_at_home(store, tmp_path, fake, closing):
    elsewhere = closing(FakeRegistry())
    image = small_image()
    fake.put("app", "1", image)
    elsewhere.blobs.update({f"/cdn/{d}": b for d, b in image.blobs.items()})
    for name in image.blobs:
        fake.rules[f"/v2/app/blobs/{name}"] = lambda handler, name=name: handler.answer(
            307, headers={"Location": f"{elsewhere.url}/cdn/{name}"})

    def guarded(handler):
        if "Authorization" in handler.headers:
            return False
        return handler.answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    fake.rules["/v2/app/manifests/1"] = guarded
    file = credentials(tmp_path / "c.json", fake.address, "ann", "s3cret")
    store.pull(f"{fake.address}/app:1", credentialsFile=file).ok()
    assert any("Authorization" in headers for _, _, headers in fake.requests)
    assert elsewhere.requests and not any("Authorization" in headers for _, _, headers in elsewhere.requests)


def test_redirect_out_of_tls(store, tmp_path, fake, closing):
    certificate = Certificate(tmp_path)
    secure = closing(FakeRegistry(tls=certificate))
    fake.put("app", "1", small_image())
    secure.rules["/v2/app/manifests/1"] = lambda handler: handler.answer(
        302, headers={"Location": f"{fake.url}/v2/app/manifests/1"})
    rule = {"plainHttp": False, "caFile": str(certificate.ca)}
    store.pull(f"{secure.address}/app:1", registries={secure.address: rule}).failed(
        "DATA_LOSS", secure.address, "redirects to a protocol that is not allowed")
    assert not fake.requests


def test_token_server_out_of_tls(store, tmp_path, fake, closing):
    """A registry behind TLS cannot have the credentials sent in the clear."""
    certificate = Certificate(tmp_path)
    secure = closing(FakeRegistry(tls=certificate))
    secure.rules["/v2/app/manifests/1"] = lambda handler: handler.answer(
        401, headers={"WWW-Authenticate": f'Bearer realm="{fake.url}/token"'})
    file = credentials(tmp_path / "c.json", secure.address, "ann", "s3cret")
    rule = {"plainHttp": False, "caFile": str(certificate.ca)}
    store.pull(f"{secure.address}/app:1", registries={secure.address: rule}, credentialsFile=file).failed(
        "DATA_LOSS", "not reached over https")
    assert not fake.requests


def test_token_that_expires(store, fake):
    """A 401 in the middle of things renews the token and goes on."""
    image = small_image()
    fake.put("app", "1", image)
    issued = []

    def token(handler):
        issued.append(f"t{len(issued)}")
        return handler.answer(200, json.dumps({"access_token": issued[-1]}).encode())
    fake.rules["/token"] = token

    def guard(expected):
        def rule(handler):
            if handler.headers.get("Authorization") == f"Bearer {expected}":
                return False
            return handler.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{fake.url}/token?x=1",service="s"'})
        return rule
    fake.rules["/v2/app/manifests/1"] = guard("t0")
    fake.rules[f"/v2/app/blobs/{image.layers[0]}"] = guard("t1")
    store.pull(f"{fake.address}/app:1").ok()
    assert issued == ["t0", "t1"]
    path = next(path for _, path, _ in fake.requests if path.startswith("/token"))
    assert path == "/token?x=1&client_id=capsule&service=s&scope=repository%3Aapp%3Apull"


def test_identity_token(store, tmp_path, fake):
    fake.put("app", "1", small_image())
    forms = []

    def token(handler):
        forms.append(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        return handler.answer(200, b'{"access_token": "good"}')
    fake.rules["/token"] = token
    fake.rules["/v2/app/manifests/1"] = lambda handler: handler.headers.get("Authorization") != "Bearer good" and \
        handler.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{fake.url}/token",service="s"'})
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"auths": {fake.address: {"identitytoken": "re/fresh"}}}))
    store.pull(f"{fake.address}/app:1", credentialsFile=str(file)).ok()
    assert forms == ["grant_type=refresh_token&client_id=capsule&refresh_token=re%2Ffresh&service=s"
                     "&scope=repository%3Aapp%3Apull"]


# ---- hostile and broken answers: each one clear error, and nothing kept ----

def manifest_is(body, headers=None):
    def setup(fake, image):
        fake.rules["/v2/app/manifests/1"] = lambda h: h.answer(200, body(image) if callable(body) else body, headers)
    return setup


def manifest_answers(answer):
    def setup(fake, image):
        fake.rules["/v2/app/manifests/1"] = answer
    return setup


def challenge(text):
    return manifest_answers(lambda h: h.answer(401, headers={"WWW-Authenticate": text} if text else {}))


def token_answers(answer):
    def setup(fake, image):
        fake.rules["/token"] = answer
        challenge(f'Bearer realm="{fake.url}/token"')(fake, image)
    return setup


def layer_answers(answer):
    def setup(fake, image):
        fake.rules[f"/v2/app/blobs/{image.layers[0]}"] = lambda h: answer(h, image.blobs[image.layers[0]])
    return setup


def altered(**changes):
    return manifest_is(lambda image: json.dumps({**image.document, **changes}).encode())


def replaced_layer(data):
    def setup(fake, image):
        other = Image([data], suffix="")
        fake.put("app", "1", other)
    return setup


def nested_indexes(fake, image):
    body = image.manifest
    for _ in range(5):
        body = make_index((body, None))
        fake.put("app", "1", body)


def raw(text):
    def answer(h):
        h.wfile.write(text)
        h.close_connection = True
        return True
    return manifest_answers(answer)


def config_is(**config):
    def setup(fake, image):
        fake.put("app", "1", Image([images.layer_tar([images.File("/x", b"x")])], **config))
    return setup


def huge_headers(h):
    h.send_response(200)
    for i in range(90):
        h.send_header(f"X-{i}", "x" * 1000)
    h.end_headers()
    return True


BAD = {
    "no such image": (manifest_answers(lambda h: h.answer(404)), "NOT_FOUND", "it has no such image"),
    "forbidden": (manifest_answers(lambda h: h.answer(403, b'{"errors": [{"message": "go away"}]}')),
                  "PERMISSION_DENIED",
                  'it does not allow the pull ("go away")'),
    "teapot": (manifest_answers(lambda h: h.answer(418)), "UNAVAILABLE", "status 418"),
    "endless error": (manifest_answers(lambda h: h.answer(404, b"x" * 20_000_000)), "NOT_FOUND",
                      "it has no such image"),
    "401 without a challenge": (challenge(None), "DATA_LOSS", "does not say how"),
    "challenge that is none": (challenge('Bearer realm="'), "DATA_LOSS",
                               "WWW-Authenticate header cannot be understood"),
    "challenge without realm": (challenge("Bearer service=x"), "DATA_LOSS", "names no token server"),
    "unknown scheme": (challenge("Negotiate"), "UNIMPLEMENTED", "neither bearer tokens nor basic credentials"),
    "basic without credentials": (challenge('Basic realm="x"'), "UNAUTHENTICATED", "it needs credentials"),
    "token server by file": (challenge('Bearer realm="file:///etc/passwd"'), "DATA_LOSS", "not reached over https"),
    "token not JSON": (token_answers(lambda h: h.answer(200, b"<html>")), "DATA_LOSS",
                       "token server's answer is not JSON"),
    "token that is none": (token_answers(lambda h: h.answer(200, b'{"token": 5}')), "DATA_LOSS", "no valid token"),
    "token with a line end": (token_answers(lambda h: h.answer(200, b'{"token": "a\\r\\nX: y"}')), "DATA_LOSS",
                              "no valid token"),
    "endless token": (token_answers(lambda h: h.endless()), "DATA_LOSS",
                      "the token server: its answer is larger than 64 KiB"),
    "token denied": (token_answers(lambda h: h.answer(401)), "UNAUTHENTICATED", "it needs credentials"),
    "token server's 404": (token_answers(lambda h: h.answer(404)), "UNAVAILABLE",
                           "token server answers with status 404"),
    "token of no use": (token_answers(lambda h: h.answer(200, b'{"token": "x"}')), "UNAUTHENTICATED",
                        "it needs credentials"),
    "ever new tokens": (token_answers(lambda h: h.answer(200, b'{"token": "%d"}' % time.monotonic_ns())),
                        "UNAUTHENTICATED",
                        "it needs credentials"),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH\r\n" * 10), "DATA_LOSS", "not HTTP"),
    "huge headers": (manifest_answers(huge_headers), "DATA_LOSS", "more than 64 KiB of headers"),
    "redirect loop": (manifest_answers(lambda h: h.answer(302, headers={"Location": "/v2/app/manifests/1"})),
                      "DATA_LOSS",
                      "redirects more than 10 times"),
    "redirect to a file": (manifest_answers(lambda h: h.answer(302, headers={"Location": "file:///etc/passwd"})),
                           "DATA_LOSS",
                           "protocol that is not allowed"),
    "manifest not JSON": (manifest_is(b"<html>"), "DATA_LOSS", "its manifest is not valid JSON"),
    "empty manifest": (manifest_is(b""), "DATA_LOSS", "its manifest is not valid JSON"),
    "endless manifest": (manifest_answers(lambda h: h.endless()), "DATA_LOSS", "larger than 4 MiB"),
    "manifest of another digest": (manifest_is(lambda i: i.manifest, {"Docker-Content-Digest": digest(b"")}),
                                   "DATA_LOSS",
                                   "does not have the digest that it claims"),
    "schema 1": (manifest_is(b'{"schemaVersion": 1, "fsLayers": []}'), "FAILED_PRECONDITION", "manifest schema 1"),
    "index and image at once": (altered(manifests=[]), "DATA_LOSS", "an index and an image at once"),
    "no config": (altered(config=None), "DATA_LOSS", "names no config and layers"),
    "a chart": (altered(config={"mediaType": "application/vnd.cncf.helm.config.v1+json"}), "FAILED_PRECONDITION",
                "not a container image"),
    "path as a digest": (altered(layers=[{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                                          "digest": "sha256:../../x",
                                          "size": 1}]), "DATA_LOSS", "no valid sha256 digest for layer 1"),
    "fewer layers than diff ids": (altered(layers=[]), "DATA_LOSS", "0 layers and its config 1"),
    "nested indexes": (nested_indexes, "DATA_LOSS", "other indexes without an end"),
    "config of another digest": (lambda f, i: f.blobs.update({f"/v2/app/blobs/{digest(i.config)}": b"{}"}), "DATA_LOSS",
                                 "gives other content than was asked for"),
    "config for another system": (config_is(config={"os": "windows"}), "FAILED_PRECONDITION", "it has windows/"),
    "config with wrong diff ids": (config_is(diff_ids=["sha256:x"]), "DATA_LOSS", "diff id 1"),
    "another diff id": (config_is(diff_ids=[digest(b"")]), "DATA_LOSS", digest(b"")),
    "no such layer": (layer_answers(lambda h, b: h.answer(404)), "NOT_FOUND", "it has no such layer sha256:"),
    "layer of another digest": (layer_answers(lambda h, b: h.answer(200, b[:-1] + bytes([b[-1] ^ 1]))), "DATA_LOSS",
                                "layer sha256:"),
    "layer that is longer": (layer_answers(lambda h, b: h.endless()), "DATA_LOSS",
                             "larger than the manifest says"),
    "layer with a tail": (layer_answers(lambda h, b: h.answer(200, b + b"x")), "DATA_LOSS",
                          "larger than the manifest says"),
    "layer that is no tar": (replaced_layer(b"hello " * 500), "DATA_LOSS", "layer sha256:"),
    "range that was not asked for": (layer_answers(lambda h, b: h.answer(206, b, {"Content-Range": "bytes 5-9/10"})),
                                     "DATA_LOSS", "another range"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_answer(store, fake, name):
    setup, code, words = BAD[name]
    image = small_image()
    fake.put("app", "1", image)
    setup(fake, image)
    started = time.monotonic()
    message = store.pull(f"{fake.address}/app:1").failed(code, words)
    assert time.monotonic() - started < 5, "what cannot get better was tried again"
    assert message.startswith(f"cannot pull {fake.address}/app:1: registry {fake.address}: "), message
    store.is_empty()
    # The store is as usable as before.
    fake.rules.clear()
    fake.put("app", "1", image)
    store.pull(f"{fake.address}/app:1").ok()


@pytest.mark.parametrize("config, words", [
    ("{", "line 1"), ('{"mirrors": []}', 'unknown member "mirrors"'), ('{"credentialsFile": "x"}', "absolute path")])
def test_bad_registries_file(store, config, words):
    store.config.write_text(config)
    done = subprocess.run([WORKER, "pull", "--root", store.root, "--registries", store.config, "x"],
                          capture_output=True, timeout=30)
    Result(done.returncode, done.stdout, done.stderr).failed("INVALID_ARGUMENT", str(store.config), words)


def test_bad_reference(store):
    store.pull("Nginx").failed("INVALID_ARGUMENT", "must be lower case")
    store.pull("--root").failed("INVALID_ARGUMENT", "--root")
