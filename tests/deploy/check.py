"""Checks that no existing tool does: rendered manifests against strict schemas and the restricted profile, every
configuration in them by `revgate check`, and the dashboard. The argument is a folder with the rendered bases; the
dashboard's queries are left there as rules for promtool."""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import yaml

WORK = pathlib.Path(sys.argv[1])
DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
# The oldest with native sidecars, and the newest that the validator knows.
VERSIONS = ["1.29", "1.37"]
faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def schema(name, resource):
    kind = f"{name}: {resource.get('kind')} {resource.get('metadata', {}).get('name')}"
    if resource["kind"] == "ServiceMonitor":  # A custom resource: no schema to be had, so only what matters here.
        endpoints = resource["spec"]["endpoints"]
        if set(resource["spec"]) != {"selector", "endpoints"} or any(set(e) - {"port", "path", "interval"} for e in endpoints):
            fault(kind, "a key that this test does not know")
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except Exception as error:
            fault(f"{kind} ({version})", error)


def pods(resources):
    for r in resources:
        if r["kind"] == "Deployment":
            yield r["metadata"]["name"], r["spec"]["template"]


def restricted(name, template):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root."""
    spec = template["spec"]
    pod = spec.get("securityContext", {})
    for c in spec["containers"] + spec.get("initContainers", []):
        where, own = f"{name}/{c['name']}", c.get("securityContext", {})
        want = {
            "runAsNonRoot": own.get("runAsNonRoot", pod.get("runAsNonRoot")) is True,
            "runAsUser": (own.get("runAsUser", pod.get("runAsUser")) or 0) > 0,
            "seccompProfile": own.get("seccompProfile", pod.get("seccompProfile")) == {"type": "RuntimeDefault"},
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "requests": "requests" in c.get("resources", {}),
            "memory limit": "memory" in c.get("resources", {}).get("limits", {}),
        }
        for key in (k for k, good in want.items() if not good):
            fault(where, f"{key} is not as the restricted profile requires")
        if c["name"] == "revgate":
            ports = {p["name"] for p in c["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                get = c.get(probe, {}).get("httpGet", {})
                if get.get("port") not in ports or get.get("path") not in ("/readyz", "/livez"):
                    fault(where, f"{probe} uses {get}")
    if {"hostNetwork", "hostPID", "hostIPC"} & set(spec) or any("hostPath" in v for v in spec.get("volumes", [])):
        fault(name, "uses the host")


def drains(name, template, config):
    """Checks that a pod with a gateway has time for its drain, since otherwise it loses requests."""
    spec = template["spec"]
    if not any(c["name"] == "revgate" for c in spec["containers"] + spec.get("initContainers", [])):
        return
    drain = config.get("drain", {})
    takes = int(drain.get("delay", "0s")[:-1]) + int(drain.get("timeout", "25s")[:-1])
    if spec.get("terminationGracePeriodSeconds", 30) <= takes:
        fault(name, f"terminationGracePeriodSeconds is not above the drain's {takes} s")


def check(name, text):
    """Loads the file as `run` would, with test secrets instead of the mounted ones."""
    with tempfile.TemporaryDirectory() as d:
        mounted = re.compile(r'"(/run/(?:secrets|credentials)/[^"]*)"')
        for path in mounted.findall(text):
            at = pathlib.Path(d + path)
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text("redis://revgate:a-secret-of-the-test@redis\n" if path.endswith("/redis-url") else "a-secret-of-the-test\n")
        file = pathlib.Path(d) / "revgate.toml"
        file.write_text(mounted.sub(lambda m: f'"{d}{m[1]}"', text))
        done = subprocess.run([os.environ["REVGATE_BIN"], "check", "-c", file], capture_output=True, text=True)
        if done.returncode != 0:
            fault(name, done.stderr.strip())


def base(name):
    resources = list(yaml.safe_load_all((WORK / f"{name}.yaml").read_text()))
    listed = yaml.safe_load((DEPLOY / "kubernetes" / name / "kustomization.yaml").read_text())["resources"]
    there = {p.name for p in (DEPLOY / "kubernetes" / name).glob("*.yaml")} - {"kustomization.yaml"}
    if there != set(listed):
        fault(name, f"kustomization.yaml and the folder differ: {there ^ set(listed)}")
    config = {}
    for r in resources:
        schema(name, r)
        if r["kind"] == "ConfigMap" and "revgate.toml" in r["data"]:
            check(f"{name}: ConfigMap", r["data"]["revgate.toml"])
            config = tomllib.loads(r["data"]["revgate.toml"])
    for pod, template in pods(resources):
        restricted(f"{name}: {pod}", template)
        drains(f"{name}: {pod}", template, config)
        for v in template["spec"]["volumes"]:
            if "configMap" in v and not any(r["kind"] == "ConfigMap" and r["metadata"]["name"] == v["configMap"]["name"] for r in resources):
                fault(name, f"the volume {v['name']} names a ConfigMap that is not there")
    return resources


def selects(resources, name):
    labels = next(t["metadata"]["labels"] for n, t in pods(resources) if n == name)
    for r in resources:
        spec = r.get("spec", {})
        chosen = {
            "Service": spec.get("selector"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
            "PodDisruptionBudget": (spec.get("selector") or {}).get("matchLabels"),
        }.get(r["kind"])
        if chosen is not None and not (chosen and chosen.items() <= labels.items()):
            fault(f"{r['kind']} {r['metadata']['name']}", "does not select the pods")
        if r["kind"] == "ServiceMonitor":
            found = [s for s in resources if s["kind"] == "Service" and spec["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
            if len(found) != 1 or spec["endpoints"][0]["port"] not in {p["name"] for p in found[0]["spec"]["ports"]}:
                fault("ServiceMonitor", "does not select one Service with its port")


def lets_in(resources):
    """Checks that the sidecars of the fleet reach Redis by its Service's name and port, and that nobody else does."""
    labels = next(t["metadata"]["labels"] for n, t in pods(resources) if n == "app")
    policy = next(r for r in resources if r["kind"] == "NetworkPolicy")
    service = next(r for r in resources if r["kind"] == "Service")
    rules = policy["spec"]["ingress"]
    chosen = [peer.get("podSelector", {}).get("matchLabels") for rule in rules for peer in rule["from"]]
    if len(chosen) != 1 or not chosen[0] or not chosen[0].items() <= labels.items():
        fault("fleet: NetworkPolicy", f"lets in {chosen}, and not just the pods with a sidecar")
    if [port["port"] for rule in rules for port in rule["ports"]] != [port["port"] for port in service["spec"]["ports"]]:
        fault("fleet: NetworkPolicy", "has other ports than the Service")
    if "egress" in policy["spec"] or "Egress" not in policy["spec"]["policyTypes"]:
        fault("fleet: NetworkPolicy", "lets Redis call others")


def redis(resources):
    """Starts the Redis of the fleet with its configuration and its users, and has revgate use it with the rights that it has there."""
    folder = DEPLOY / "kubernetes" / "fleet"
    config = next(r["data"]["redis.conf"] for r in resources if r["kind"] == "ConfigMap" and "redis.conf" in r["data"])
    pod = next(t for n, t in pods(resources) if n == "redis")
    probe = pod["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    password, admin = "a-secret-of-the-test", "another-secret-of-the-test"
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        socket, users, url = d / "redis.sock", d / "users.acl", d / "redis-url"
        rules = (folder / "users.acl").read_text()
        for user, secret in [("revgate", password), ("admin", admin)]:
            # As the comment in kustomization.yaml says.
            digest = hashlib.sha256(secret.encode()).hexdigest()
            rules = re.sub(f"^(user {user} .*)#[0-9a-f]{{64}}", rf"\1#{digest}", rules, flags=re.MULTILINE)
        users.write_text(rules)
        config = config.replace("/run/secrets/redis/users.acl", str(users))
        (d / "redis.conf").write_text(f"{config}\nport 0\nunixsocket {socket}\ndir {d}\n")
        url.write_text(f"unix://revgate:{password}@{socket}\n")
        (d / "revgate.toml").write_text(f'[tokens.main]\nfile = "{url}"\n[callers.app]\nanonymous = true\n[shared]\nredis = {{ file = "{url}" }}\n')
        server = subprocess.Popen(["redis-server", d / "redis.conf"], stdout=subprocess.PIPE, text=True)
        try:
            # Its log ends if it does.
            log = []
            for line in server.stdout:
                log.append(line)
                if "ready to accept connections" in line:
                    break
            if server.poll() is not None or not socket.exists():
                return fault("fleet: redis.conf", "".join(log))
            cli = ["redis-cli", "-s", socket]
            command = [re.sub("valkey-cli", f"redis-cli -s {socket}", part) for part in probe]
            if subprocess.run(command).returncode != 0:
                fault("fleet: redis", f"the probe fails: {command}")
            for who, call in [([], "PING"), (["--user", "probe", "--pass", "any"], "GET revgate:v1:x"), (["--user", "revgate", "--pass", password], "GET other"),
                              (["--user", "revgate", "--pass", password], "FLUSHALL"), (["--user", "revgate", "--pass", password], "CONFIG GET maxmemory")]:
                said = subprocess.run([*cli, "--no-auth-warning", *who, *call.split()], capture_output=True, text=True).stdout
                if "NOAUTH" not in said and "NOPERM" not in said:
                    fault("fleet: users.acl", f"{who[1:2]} may {call}: {said.strip()}")
            done = subprocess.run([os.environ["REVGATE_BIN"], "check", "--connect", "-c", d / "revgate.toml"], capture_output=True, text=True)
            if done.returncode != 0 or "noeviction" not in done.stdout:
                fault("fleet: check --connect", done.stdout + done.stderr.strip())
            # What the runbook has an administrator do.
            for call in ["INFO memory", "SLOWLOG GET", "ACL LOG", "ACL LOAD", "CLIENT LIST", "DEL revgate:v1:x", f"ACL SETUSER revgate #{'1' * 64}"]:
                said = subprocess.run([*cli, "--no-auth-warning", "--user", "admin", "--pass", admin, "-e", *call.split()], capture_output=True, text=True)
                if said.returncode != 0:
                    fault("fleet: users.acl", f"admin may not {call}: {said.stdout}{said.stderr}".strip())
        finally:
            server.kill()
            server.wait()


def dashboard():
    board = json.loads((DEPLOY / "grafana" / "revgate.json").read_text())
    rules, ids, taken = [], set(), set()
    for panel in board["panels"]:
        if panel["id"] in ids:
            fault("dashboard", f"the id {panel['id']} is there twice")
        ids.add(panel["id"])
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        if cells & taken or at["x"] + at["w"] > 24:
            fault("dashboard", f"{panel['title']} lies over another or beyond the edge")
        taken |= cells
        if panel["type"] != "row" and not panel.get("description"):
            fault("dashboard", f"{panel['title']} does not say what it shows")
        for t in panel.get("targets", []):
            expr = t["expr"].replace("$__rate_interval", "1m").replace("$__range", "1h")
            rules.append({"record": f"dashboard:p{panel['id']}_{t['refId'].lower()}", "expr": expr})
    (WORK / "dashboard-queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))


def licences():
    """Compares the licences in deny.toml with those of the dependencies. cargo-deny also compares the full texts."""
    allowed = set(tomllib.loads((DEPLOY / "deny.toml").read_text())["licenses"]["allow"])
    tree = ["cargo", "tree", "--locked", "--edges=normal,build", "--prefix=none", "--format={p}\t{l}"]
    lines = subprocess.run(tree, cwd=DEPLOY.parent, capture_output=True, text=True, check=True).stdout.splitlines()
    for package, licence in sorted({tuple(line.replace(" (*)", "").split("\t")) for line in lines}):
        terms = re.split(r"(\(|\)|\s+(?:AND|OR)\s+|/)", licence)
        words = {"/": "or", "AND": "and", "OR": "or", "(": "(", ")": ")"}
        python = " ".join(words.get(t.strip(), str(t.strip() in allowed)) for t in terms if t.strip())
        if not eval(python):
            fault("deny.toml", f"{package}: {licence}")


licences()
base("sidecar")
selects(base("standalone"), "revgate")
fleet = base("fleet")
selects(fleet, "redis")
lets_in(fleet)
redis(fleet)
for file in [DEPLOY / "compose/config/revgate.toml", DEPLOY / "systemd/revgate.toml"]:
    check(file.relative_to(DEPLOY), file.read_text())
dashboard()
if faults:
    sys.exit("\n".join(map(str, faults)))
