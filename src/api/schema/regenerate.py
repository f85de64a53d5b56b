#!/usr/bin/env python3
"""Writes facts.txt: what upstream's published API says about its types, without its prose.

    python3 src/api/schema/regenerate.py [VERSION] > src/api/schema/facts.txt       (VERSION: 1.36.3)

Needs Python 3.11 and Go (`go mod download` fetches the modules, read-only). Deterministic: the same
version gives the same bytes. Three sources, joined by the field's JSON name:

  api/openapi-spec/v3/*.json of k8s.io/kubernetes   names, types, required, list and map types, merge keys, defaults
  types*.go of k8s.io/api and its siblings          `omitempty`, pointers, protobuf tags (through inlined structs)
  pkg/generated/openapi of k8s.io/kubernetes        enumerations, which the published documents lack

Only generally available versions (v1, v2) are kept. facts.txt opens with the legend of its lines.
"""

import json
import pathlib
import re
import subprocess
import sys

LEGEND = """\
# Upstream's API types as facts: Kubernetes {version}. Made by regenerate.py, not by hand.
#
#   type-name [group/version/Kind ...] [atomic]      `*`: this kind is in every group version
#    field shape[!][~] [facts]                       !: required   ~: the zero value is not written (Go's omitempty)
#
# A type's name is its OpenAPI name without `io.k8s.api.`; `meta.` stands for apimachinery's meta package,
# `apiextensions.` and `apiregistration.` for those of their servers. A shape names a type of the same package
# without the package; `[]` is a list, `{{}}` a map. Facts of a field:
#   #n         protobuf tag; `#2.5` is field 5 of the message in field 2, which JSON does not show
#   via=T      in Go it is a field of the embedded struct T, which JSON does not show
#   set, keys=a,b   list type (atomic if neither); `atomic` after a map or an object: replaced as a whole by apply
#   merge      strategic merge of a list of scalars; `merge=key`: of a list of objects
#   retain     patch strategy retainKeys   replace   patch strategy replace
#   default=x  default in JSON, unless it is the zero value
#   enum=a,b   the values that there are (of a list: that its items have); to the end of the line
"""

PREFIXES = [
    ("io.k8s.api.", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.", "meta."),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.", "apiextensions."),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.", "apiregistration."),
]

# Types that JSON shows as something else than an object with fields.
SCALARS = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "micro-time",
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "object",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "object",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch": "object",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "any",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "any",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "any",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "any",
}

FORMATS = {
    ("string", None): "string",
    ("string", "byte"): "bytes",
    ("string", "date-time"): "time",
    ("boolean", None): "bool",
    ("integer", "int32"): "int32",
    ("integer", "int64"): "int64",
    ("number", "double"): "double",
}


def module(path, version):
    out = subprocess.run(
        ["go", "mod", "download", "-json", f"{path}@{version}"], check=True, capture_output=True, text=True
    )
    return pathlib.Path(json.loads(out.stdout)["Dir"])


# --- Go: omitempty, pointers, protobuf tags


def go_package(directory):
    """{struct: [(Go name, type, tag)]} of a package's types*.go."""
    structs = {}
    for path in sorted(directory.glob("*.go")):
        if path.name.startswith(("zz_generated", "generated")) or path.name.endswith("_test.go"):
            continue
        current = None
        for line in path.read_text().splitlines():
            line = line.strip()
            if opened := re.match(r"type (\w+) struct \{$", line):
                current = structs.setdefault(opened[1], [])
            elif line == "}":
                current = None
            elif current is not None and (field := re.match(r"(?:(\w+)\s+)?([\w.*\[\]]+)\s+`(.*)`", line)):
                current.append((field[1], field[2], field[3]))
    return structs


def go_fields(packages, package, struct, path="", via=()):
    """{JSON name: (Go type, omitempty, protobuf path, inlined structs around it)}, through inlined structs. `path` is
    None for what is no part of the message."""
    fields = {}
    for _, go_type, tag in packages[package].get(struct, []):
        name, *options = (re.search(r'json:"([^"]*)"', tag) or ["", "-"])[1].split(",")
        number = re.search(r'protobuf:"\w+,(\d+)', tag)
        number = path + number[1] if number and path is not None else None
        if "inline" in options:
            owner, _, inner = go_type.lstrip("*").rpartition(".")
            home = {"": package, "metav1": "meta.v1", "v1": "core.v1"}.get(owner, package)
            # TypeMeta has no number: its fields are told around the message.
            fields |= go_fields(packages, home, inner, number and f"{number}.", (*via, inner))
        elif name != "-":
            zero = bool({"omitempty", "omitzero"} & set(options))
            fields.setdefault(name, (go_type, zero, number, via))
    return fields


def enumerations(generated):
    """{(package, struct, field): [value]} of the OpenAPI that upstream's server is built with."""
    found, package, struct, field = {}, "", "", ""
    for line in generated.read_text().splitlines():
        if opened := re.match(r"func schema_(k8sio_api|pkg_apis)_(\w+)_(v\d\w*)_(\w+)\(", line):
            package, struct = f"{opened[2]}.{opened[3]}", opened[4]
        elif opened := re.match(r'\t{5}"(\w+)": \{', line):
            field = opened[1]
        elif values := re.search(r"Enum:\s+\[\]interface\{\}\{(.*)\},", line):
            found[package, struct, field] = json.loads(f"[{values[1]}]")
    return found


# --- OpenAPI


def definitions(spec):
    """By name. The documents differ only in the kinds that they give the options."""
    found = {}
    for path in sorted(spec.glob("*.json")):
        for name, schema in json.loads(path.read_text()).get("components", {}).get("schemas", {}).items():
            first = found.setdefault(name, schema)
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                if kind not in first["x-kubernetes-group-version-kind"]:
                    first["x-kubernetes-group-version-kind"].append(kind)
    return found


def short(name):
    for long, brief in PREFIXES:
        if name.startswith(long):
            return brief + name.removeprefix(long)
    raise ValueError(f"no short name for {name}")


def kept(name):
    return name not in SCALARS and re.search(r"\.v\d+\.\w+$", name)


def reference(schema):
    target = schema.get("$ref") or next((part["$ref"] for part in schema.get("allOf", []) if "$ref" in part), None)
    return target and target.removeprefix("#/components/schemas/")


def shape(schema, package):
    if target := reference(schema):
        if target in SCALARS:
            return SCALARS[target]
        name = short(target)
        owner, _, bare = name.rpartition(".")
        return bare if owner == package else name
    if schema.get("type") == "array":
        return "[]" + shape(schema["items"], package)
    if schema.get("type") == "object" and "additionalProperties" in schema:
        return "{}" + shape(schema["additionalProperties"], package)
    if schema.get("type") == "object":
        return "object"
    if not schema.get("type"):
        return "any"
    return FORMATS[schema["type"], schema.get("format")]


def field_facts(schema, number, via, enum):
    facts = [f"#{number}"] if number else []
    if via and via != ("TypeMeta",):
        facts.append("via=" + ".".join(via))
    listing = schema.get("x-kubernetes-list-type")
    if listing == "set":
        facts.append("set")
    elif listing == "map":
        facts.append("keys=" + ",".join(schema["x-kubernetes-list-map-keys"]))
    elif schema.get("x-kubernetes-map-type") == "atomic":
        facts.append("atomic")
    strategies = schema.get("x-kubernetes-patch-strategy", "").split(",")
    if "merge" in strategies:
        key = schema.get("x-kubernetes-patch-merge-key")
        facts.append(f"merge={key}" if key else "merge")
    if "retainKeys" in strategies:
        facts.append("retain")
    if "replace" in strategies:
        facts.append("replace")
    if schema.get("default") not in (None, "", 0, False, {}, []):
        facts.append("default=" + json.dumps(schema["default"], separators=(",", ":")))
    if enum:
        facts.append("enum=" + ",".join(enum))
    return facts


def kinds(name, schema):
    found = schema.get("x-kubernetes-group-version-kind", [])
    if len(found) > 3:
        return ["*"]
    return [f"{kind['group']}/{kind['version']}/{kind['kind']}" for kind in found]


def render(name, schema, packages, enums):
    package, _, struct = short(name).rpartition(".")
    head = [short(name), *kinds(name, schema)]
    if schema.get("x-kubernetes-map-type") == "atomic":
        head.append("atomic")
    lines = [" ".join(head)]
    go = go_fields(packages, package, struct)
    for field, property in sorted(schema.get("properties", {}).items()):
        text = shape(property, package)
        go_type, omits, number, via = go.get(field, ("", False, "", ()))
        droppable = not go_type.startswith("*") and (
            text.startswith(("[]", "{}")) or text in FORMATS.values() and text != "time"
        )
        mark = ("!" if field in schema.get("required", []) else "") + ("~" if omits and droppable else "")
        lines.append(" ".join([f" {field} {text}{mark}", *field_facts(property, number, via, enums.get((package, struct, field)))]))
    return lines


def main():
    version = sys.argv[1] if len(sys.argv) > 1 else "1.36.3"
    staging = "v0" + version.removeprefix("1")
    kubernetes = module("k8s.io/kubernetes", f"v{version}")
    enums = enumerations(kubernetes / "pkg/generated/openapi/zz_generated.openapi.go")
    homes = {
        "": module("k8s.io/api", staging),
        "meta": module("k8s.io/apimachinery", staging) / "pkg/apis/meta",
        "apiextensions": module("k8s.io/apiextensions-apiserver", staging) / "pkg/apis/apiextensions",
        "apiregistration": module("k8s.io/kube-aggregator", staging) / "pkg/apis/apiregistration",
    }
    found = {name: schema for name, schema in definitions(kubernetes / "api/openapi-spec/v3").items() if kept(name)}
    packages = {}
    for name in found:
        package = short(name).rpartition(".")[0]
        home, _, rest = package.partition(".")
        directory = homes[home] / rest if home in homes else homes[""] / package.replace(".", "/")
        packages.setdefault(package, None)
        packages[package] = packages[package] or go_package(directory)
    print(LEGEND.format(version=version), end="")
    for name in sorted(found, key=short):
        print("\n".join(render(name, found[name], packages, enums)))


main()
