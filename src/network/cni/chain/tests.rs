//! The order of calls and what each plugin is told, on recorded plugins.

use std::{path::Path, sync::Mutex};

use serde_json::json;

use super::*;

/// Plugins that answer ADD with one more address each, and fail where told.
#[derive(Default)]
struct Recorded {
    calls: Mutex<Vec<Invocation>>,
    fails: Option<(&'static str, Command)>,
}

impl Exec for Recorded {
    async fn run(&self, invocation: Invocation) -> Result<Value, CniError> {
        let number = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(invocation.clone());
            calls.len()
        };
        if self
            .fails
            .is_some_and(|(plugin, command)| plugin == invocation.plugin && command == invocation.command)
        {
            return Err(CniError::new(Code(100), "told to fail"));
        }
        if invocation.command != Command::Add {
            return Ok(Value::Null);
        }
        let mut result = invocation.stdin.get("prevResult").cloned().unwrap_or_else(|| json!({"ips": []}));
        result["cniVersion"] = invocation.stdin["cniVersion"].clone();
        let mut ips = result["ips"].as_array().cloned().unwrap_or_default();
        ips.push(json!({"address": format!("10.0.0.{number}/24"), "version": "4"}));
        result["ips"] = json!(ips);
        Ok(result)
    }
}

fn chain(version: &str, dir: &Path, exec: Recorded) -> Chain<Recorded> {
    let text = json!({"cniVersion": version, "name": "net", "plugins": [
        {"type": "a"}, {"type": "b", "capabilities": {"portMappings": true}}]});
    let list = NetworkList::parse(&text.to_string(), Path::new("test")).unwrap();
    Chain::new(list, Cache::new(dir.join("results")), exec)
}

fn attachment(id: &str) -> Attachment {
    let Value::Object(capabilities) = json!({"portMappings": [{"hostPort": 1}]}) else { panic!() };
    Attachment {
        id: AttachmentId { container_id: id.into(), ifname: "eth0".into() },
        netns: "/run/netns/x".into(),
        args: "A=1".into(),
        capabilities,
    }
}

fn calls(chain: &Chain<Recorded>) -> Vec<(String, Command)> {
    chain.exec.calls.lock().unwrap().iter().map(|call| (call.plugin.clone(), call.command)).collect()
}

#[tokio::test]
async fn add_runs_forwards_and_each_plugin_sees_the_result_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let chain = chain("1.0.0", dir.path(), Recorded::default());
    let result = chain.add(&attachment("c1")).await.unwrap();
    assert_eq!(result.ips.len(), 2);
    let calls = chain.exec.calls.lock().unwrap();
    assert_eq!(calls[0].stdin.get("prevResult"), None);
    assert_eq!(calls[0].stdin.get("runtimeConfig"), None);
    assert_eq!(calls[1].stdin["prevResult"]["ips"][0]["address"], "10.0.0.1/24");
    assert_eq!(calls[1].stdin["runtimeConfig"]["portMappings"][0]["hostPort"], 1);
}

#[tokio::test]
async fn del_runs_backwards_with_the_result_of_add_and_forgets_it() {
    let dir = tempfile::tempdir().unwrap();
    let chain = chain("1.0.0", dir.path(), Recorded::default());
    chain.add(&attachment("c1")).await.unwrap();
    let bare = Attachment { capabilities: Map::new(), ..attachment("c1") };
    chain.del(&bare).await.unwrap();
    {
        let recorded = chain.exec.calls.lock().unwrap();
        assert_eq!((recorded[2].plugin.as_str(), recorded[3].plugin.as_str()), ("b", "a"));
        assert_eq!(recorded[2].stdin["prevResult"]["ips"].as_array().unwrap().len(), 2);
        assert_eq!(recorded[2].stdin["runtimeConfig"]["portMappings"][0]["hostPort"], 1);
    }
    chain.del(&bare).await.unwrap();
    assert_eq!(chain.exec.calls.lock().unwrap()[4].stdin.get("prevResult"), None);
}

#[tokio::test]
async fn version_0_3_1_has_no_check_and_no_result_on_del() {
    let dir = tempfile::tempdir().unwrap();
    let chain = chain("0.3.1", dir.path(), Recorded::default());
    chain.add(&attachment("c1")).await.unwrap();
    chain.del(&attachment("c1")).await.unwrap();
    assert_eq!(chain.exec.calls.lock().unwrap()[2].stdin.get("prevResult"), None);
    assert_eq!(chain.check(&attachment("c1")).await.unwrap_err().code, Code::INCOMPATIBLE_VERSION);
    chain.status().await.unwrap();
    assert_eq!(calls(&chain).len(), 4);
}

#[tokio::test]
async fn a_failed_add_stops_the_chain_and_caches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let chain =
        chain("1.0.0", dir.path(), Recorded { fails: Some(("a", Command::Add)), ..Recorded::default() });
    assert_eq!(chain.add(&attachment("c1")).await.unwrap_err().code, Code(100));
    assert_eq!(calls(&chain), [("a".to_string(), Command::Add)]);
    assert!(chain.cache.list("net").await.unwrap().is_empty());
}

#[tokio::test]
async fn gc_detaches_what_is_no_longer_valid_and_asks_plugins_of_1_1() {
    let dir = tempfile::tempdir().unwrap();
    let chain = chain("1.1.0", dir.path(), Recorded::default());
    chain.add(&attachment("old")).await.unwrap();
    chain.add(&attachment("kept")).await.unwrap();
    chain.gc(&[attachment("kept").id]).await.unwrap();
    let left = chain.cache.list("net").await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].attachment.id, attachment("kept").id);
    let calls = chain.exec.calls.lock().unwrap();
    let gc = calls.last().unwrap();
    assert_eq!(gc.command, Command::Gc);
    assert_eq!(gc.stdin["cni.dev/valid-attachments"], json!([{"containerID": "kept", "ifname": "eth0"}]));
}

#[tokio::test]
async fn cached_results_are_for_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let chain = chain("1.0.0", dir.path(), Recorded::default());
    chain.add(&attachment("c1")).await.unwrap();
    let meta = std::fs::metadata(dir.path().join("results/net-c1-eth0")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
}
