//! The engine for plugin chains against the spec (1.1), clause by clause, on plugins that record how they were called.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use network::cni::{Attachment, AttachmentId, Cache, Chain, Code, NetworkList, Processes};
use serde_json::{Map, Value, json};

/// Writes down its environment and its input, then answers with the file `PLUGIN.COMMAND`, and fails where that has an
/// error code.
const RECORDER: &str = r#"#!/bin/sh
home=$(dirname "$0")/.. name=$(basename "$0")
number=$(ls "$home/calls" | wc -l)
call=$home/calls/$(printf %03d $number)
mkdir "$call"
echo "$name" > "$call/plugin"
env | grep ^CNI_ > "$call/env"
cat > "$call/stdin"
answer=$home/answers/$name.$CNI_COMMAND
[ -e "$answer" ] || exit 0
cat "$answer"
! grep -q '"code"' "$answer"
"#;

struct Call {
    plugin: String,
    env: BTreeMap<String, String>,
    stdin: Value,
}

struct Bed {
    home: tempfile::TempDir,
}

impl Bed {
    /// Two plugins: `first` and `second`, which takes port mappings.
    fn new() -> Self {
        let bed = Self { home: tempfile::tempdir().unwrap() };
        for folder in ["bin", "calls", "answers"] {
            fs::create_dir(bed.path(folder)).unwrap();
        }
        for plugin in ["first", "second"] {
            let path = bed.path("bin").join(plugin);
            fs::write(&path, RECORDER).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        bed.answer(
            "first.ADD",
            &json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "10.1.0.5/24", "interface": 0}], "dns": {}}),
        );
        bed.answer("second.ADD", &json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x", "mac": "02:00:00:00:00:01"}],
            "ips": [{"address": "10.1.0.5/24", "interface": 0}], "dns": {"domain": "second"}}));
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn answer(&self, file: &str, answer: &Value) {
        fs::write(self.path("answers").join(file), answer.to_string()).unwrap();
    }

    fn chain(&self, more: &Value) -> Chain<Processes> {
        let mut list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": [
            {"type": "first", "own": {"key": [1, 2]}},
            {"type": "second", "capabilities": {"portMappings": true, "mac": false}}]});
        for (key, value) in more.as_object().unwrap() {
            list[key] = value.clone();
        }
        let list = NetworkList::parse(&list.to_string(), Path::new("net.conflist")).unwrap();
        let exec = Processes { dirs: vec![self.path("bin")], deadline: Duration::from_secs(20) };
        Chain::new(list, Cache::new(self.path("results")), exec)
    }

    /// How plugins were called since the last look.
    fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<PathBuf> =
            fs::read_dir(self.path("calls")).unwrap().map(|call| call.unwrap().path()).collect();
        calls.sort();
        let read = |path: &Path| {
            let text = |name: &str| fs::read_to_string(path.join(name)).unwrap();
            let env = text("env");
            let env = env.lines().map(|line| line.split_once('=').unwrap());
            let call = Call {
                plugin: text("plugin").trim().to_string(),
                env: env.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
                stdin: serde_json::from_str(&text("stdin")).unwrap(),
            };
            fs::remove_dir_all(path).unwrap();
            call
        };
        calls.iter().map(|path| read(path)).collect()
    }

    fn plugins(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.plugin).collect()
    }
}

fn attachment() -> Attachment {
    let Value::Object(capabilities) = json!({"portMappings": [{"hostPort": 80}], "mac": "x"}) else {
        panic!()
    };
    Attachment {
        id: AttachmentId { container_id: "c1".into(), ifname: "eth0".into() },
        netns: "/run/netns/x".into(),
        args: "K8S_POD_NAME=web".into(),
        capabilities,
    }
}

/// Sections 2 (parameters), 3 (attachment) and 4 (derived configuration).
#[tokio::test]
async fn add_runs_every_plugin_in_order_with_the_result_before_it_and_gives_the_last_result() {
    let bed = Bed::new();
    let result = bed.chain(&json!({})).add(&attachment()).await.unwrap();
    assert_eq!(
        (result.dns.domain.as_str(), result.interfaces[0].mac.as_str()),
        ("second", "02:00:00:00:00:01")
    );
    let calls = bed.calls();
    let env = |name: &str| calls.iter().map(|call| call.env[name].clone()).collect::<Vec<_>>();
    assert_eq!([calls[0].plugin.as_str(), calls[1].plugin.as_str()], ["first", "second"]);
    for (name, value) in [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_ARGS", "K8S_POD_NAME=web"),
        ("CNI_PATH", bed.path("bin").to_str().unwrap()),
    ] {
        assert_eq!(env(name), [value, value], "{name}");
    }
    assert_eq!(
        calls[0].stdin,
        json!({"cniVersion": "1.1.0", "name": "net", "type": "first", "own": {"key": [1, 2]}})
    );
    let second = &calls[1].stdin;
    assert_eq!(second["runtimeConfig"], json!({"portMappings": [{"hostPort": 80}]}));
    assert_eq!(second.get("capabilities"), None);
    assert_eq!(second["prevResult"]["ips"][0]["address"], "10.1.0.5/24");
    assert_eq!(second["prevResult"]["interfaces"][0].get("mac"), None);
}

/// Section 3: a failure ends ADD, its error is given as it is, and DEL takes away what there is.
#[tokio::test]
async fn a_failed_add_stops_there_and_can_be_deleted() {
    let bed = Bed::new();
    let chain = bed.chain(&json!({}));
    bed.answer(
        "first.ADD",
        &json!({"cniVersion": "1.1.0", "code": 7, "msg": "no subnet", "details": "of eth0"}),
    );
    let error = chain.add(&attachment()).await.unwrap_err();
    assert_eq!((error.code, error.details.as_str()), (Code::INVALID_CONFIG, "of eth0"));
    assert_eq!(error.msg, "plugin first: no subnet");
    assert_eq!(bed.plugins(), ["first"]);
    chain.del(&attachment()).await.unwrap();
    assert!(bed.calls().iter().all(|call| call.stdin.get("prevResult").is_none()));
}

/// Section 3: DEL runs backwards with the result of ADD, also without a namespace, and again with nothing left.
#[tokio::test]
async fn del_runs_backwards_with_the_result_of_add() {
    let bed = Bed::new();
    let chain = bed.chain(&json!({}));
    chain.add(&attachment()).await.unwrap();
    bed.calls();
    let gone = Attachment { netns: String::new(), ..attachment() };
    chain.del(&gone).await.unwrap();
    let calls = bed.calls();
    assert_eq!([calls[0].plugin.as_str(), calls[1].plugin.as_str()], ["second", "first"]);
    for call in &calls {
        assert_eq!(call.env["CNI_COMMAND"], "DEL");
        assert_eq!(call.env.get("CNI_NETNS").map_or("", String::as_str), "");
        assert_eq!(call.stdin["prevResult"]["dns"]["domain"], "second");
    }
    chain.del(&gone).await.unwrap();
    assert_eq!(bed.plugins(), ["second", "first"]);
}

/// Section 3: CHECK runs forwards with the result of ADD; the first complaint is the answer; `disableCheck` asks nobody.
#[tokio::test]
async fn check_runs_forwards_until_a_plugin_complains_unless_it_is_switched_off() {
    let bed = Bed::new();
    let chain = bed.chain(&json!({}));
    chain.add(&attachment()).await.unwrap();
    bed.calls();
    chain.check(&attachment()).await.unwrap();
    let calls = bed.calls();
    assert_eq!([calls[0].plugin.as_str(), calls[1].plugin.as_str()], ["first", "second"]);
    assert!(calls.iter().all(|call| call.env["CNI_COMMAND"] == "CHECK"));
    assert!(calls.iter().all(|call| call.stdin["prevResult"]["dns"]["domain"] == "second"));
    bed.answer("first.CHECK", &json!({"cniVersion": "1.1.0", "code": 100, "msg": "no route"}));
    assert_eq!(chain.check(&attachment()).await.unwrap_err().code, Code::CHECK_FAILED);
    assert_eq!(bed.plugins(), ["first"]);
    bed.chain(&json!({"disableCheck": true})).check(&attachment()).await.unwrap();
    assert!(bed.plugins().is_empty());
}

/// Section 3 (new in 1.1): every plugin collects, whatever the others say; nothing names a container; `disableGC` and older
/// versions ask nobody.
#[tokio::test]
async fn gc_deletes_what_is_not_valid_and_asks_every_plugin() {
    let bed = Bed::new();
    let chain = bed.chain(&json!({}));
    chain.add(&attachment()).await.unwrap();
    bed.calls();
    bed.chain(&json!({"disableGC": true})).gc(&[]).await.unwrap();
    assert!(bed.plugins().is_empty());

    let kept = AttachmentId { container_id: "kept".into(), ifname: "eth0".into() };
    bed.answer("first.GC", &json!({"cniVersion": "1.1.0", "code": 11, "msg": "later"}));
    assert_eq!(chain.gc(&[kept]).await.unwrap_err().code, Code::TRY_AGAIN_LATER);
    let calls = bed.calls();
    let order: Vec<(&str, &str)> =
        calls.iter().map(|call| (call.env["CNI_COMMAND"].as_str(), call.plugin.as_str())).collect();
    assert_eq!(order, [("DEL", "second"), ("DEL", "first"), ("GC", "first"), ("GC", "second")]);
    for call in &calls[2..] {
        assert_eq!(
            call.stdin["cni.dev/valid-attachments"],
            json!([{"containerID": "kept", "ifname": "eth0"}])
        );
        assert_eq!(call.stdin.get("runtimeConfig"), None);
        assert!(
            ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"]
                .iter()
                .all(|name| !call.env.contains_key(*name))
        );
        assert!(call.env.contains_key("CNI_PATH"));
    }

    bed.chain(&json!({"cniVersion": "1.0.0"})).gc(&[]).await.unwrap();
    assert!(bed.plugins().is_empty());
}

/// Section 3 (new in 1.1): STATUS asks in order until one is not ready; older versions ask nobody.
#[tokio::test]
async fn status_asks_until_a_plugin_is_not_ready() {
    let bed = Bed::new();
    let chain = bed.chain(&json!({}));
    chain.status().await.unwrap();
    let calls = bed.calls();
    assert_eq!([calls[0].plugin.as_str(), calls[1].plugin.as_str()], ["first", "second"]);
    assert!(
        calls
            .iter()
            .all(|call| call.env["CNI_COMMAND"] == "STATUS" && !call.env.contains_key("CNI_CONTAINERID"))
    );
    bed.answer("first.STATUS", &json!({"cniVersion": "1.1.0", "code": 50, "msg": "no daemon"}));
    assert_eq!(chain.status().await.unwrap_err().code, Code::NOT_AVAILABLE);
    assert_eq!(bed.plugins(), ["first"]);
    bed.chain(&json!({"cniVersion": "1.0.0"})).status().await.unwrap();
    assert!(bed.plugins().is_empty());
}

/// Section 1: the newest version that both the list and we speak is what plugins are told; 0.4.0 results come in its shape.
#[tokio::test]
async fn plugins_are_told_the_chosen_version_and_answer_in_its_shape() {
    let bed = Bed::new();
    let old = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/24"}]});
    bed.answer("first.ADD", &old);
    bed.answer("second.ADD", &old);
    let chain = bed.chain(&json!({"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "9.0.0"]}));
    let result = chain.add(&Attachment { capabilities: Map::new(), ..attachment() }).await.unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.5/24");
    let calls = bed.calls();
    assert!(calls.iter().all(|call| call.stdin["cniVersion"] == "0.4.0"));
    assert_eq!(calls[1].stdin["prevResult"]["ips"][0]["version"], "4");
}
