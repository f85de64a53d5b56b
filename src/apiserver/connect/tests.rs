//! Which container, which node, which words.

use http::StatusCode;
use serde_json::{Value, json};
use streaming::websocket::Form;

use super::{command, location, log};
use crate::{request::Query, status::Reason};

fn pod() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {"initContainers": [{"name": "init"}], "containers": [{"name": "a"}, {"name": "b"}]}
    })
}

#[test]
fn a_container_is_the_one_asked_for_or_the_only_one() {
    let said = |pod: &Value, asked: &str| location::container(pod, asked).map_err(|error| error.message);
    let single = json!({
        "metadata": {"name": "web"}, "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}
    });
    assert_eq!(said(&single, ""), Ok("a".into()));
    assert_eq!(said(&pod(), "init"), Ok("init".into()));
    let several = "a container name must be specified for pod web, choose one of: [init a b]";
    assert_eq!(said(&pod(), ""), Err(several.into()));
    assert_eq!(said(&pod(), "x"), Err("container x is not valid for pod web".into()));
    assert_eq!(location::node(&pod()).unwrap_err().message, "pod web does not have a host assigned");
    assert_eq!(location::node_of(&pod()), None);
}

#[test]
fn a_kubelet_is_reached_at_the_nodes_internal_address() {
    let mut node = json!({"status": {"addresses": [
        {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "fd00::1"},
    ]}});
    assert_eq!(location::endpoint(&node).unwrap().to_string(), "[fd00::1]:10250");
    node["status"]["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": 10251}});
    node["status"]["addresses"].as_array_mut().unwrap().pop();
    assert_eq!(location::endpoint(&node).unwrap().to_string(), "n1:10251");
    assert_eq!(location::endpoint(&json!({})), None);
}

#[test]
fn a_command_is_passed_on_word_by_word() {
    let query = Query::parse("command=sh&command=-c&command=echo+a%26b&stdout=true&tty=true&stdin=false");
    let pairs = command::pairs(command::wanted(&query), &query);
    assert_eq!(
        location::with_query("/exec/d/web/a", &pairs),
        "/exec/d/web/a?output=1&tty=1&command=sh&command=-c&command=echo%20a%26b"
    );
    let chosen = command::protocol(["v4.channel.k8s.io", "v5.channel.k8s.io"].into_iter());
    assert_eq!(chosen.map(|protocol| protocol.name), Ok("v5.channel.k8s.io"));
    assert_eq!(
        command::protocol(["other"].into_iter()).unwrap_err().message,
        "unable to upgrade: none of the subprotocols is one of v5.channel.k8s.io, v4.channel.k8s.io, \
         v4.base64.channel.k8s.io, channel.k8s.io, base64.channel.k8s.io"
    );
}

#[test]
fn a_log_comes_in_the_form_that_its_client_names() {
    let chosen = |offered: &[&str]| log::protocol(offered.iter().copied()).ok();
    assert_eq!(chosen(&[]), Some(("", Form::Bytes)));
    assert_eq!(chosen(&["other", "binary.k8s.io"]), Some(("binary.k8s.io", Form::Bytes)));
    assert_eq!(chosen(&["base64.binary.k8s.io"]), Some(("base64.binary.k8s.io", Form::Text)));
    assert_eq!(chosen(&["other"]), None);
}

#[test]
fn log_options_are_checked_and_passed_on() {
    let options = |query: &str| log::options("web", &Query::parse(query)).map_err(|error| error.message);
    let path = |query| options(query).map(|pairs| location::with_query("", &pairs));
    assert_eq!(path(""), Ok("?stream=All".into()));
    assert_eq!(
        path("follow=true&previous=false&tailLines=3&sinceTime=2026-01-01T00:00:00Z"),
        Ok("?follow=true&tailLines=3&sinceTime=2026-01-01T00%3A00%3A00Z&stream=All".into())
    );
    assert_eq!(
        path("tailLines=-1&limitBytes=0"),
        Err("PodLogOptions \"web\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, \
             limitBytes: Invalid value: 0: must be greater than 0]"
            .into())
    );
    assert_eq!(path("tailLines=x"), Err("strconv.ParseInt: parsing \"x\": invalid syntax".into()));
    assert!(path("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").unwrap_err().contains("at most one of"));
}

#[test]
fn a_kubelets_words_are_kept_where_the_api_keeps_them() {
    let bad = log::refusal(StatusCode::BAD_REQUEST, "container is waiting to start", "web");
    assert_eq!((bad.reason, bad.message.as_str()), (Reason::BadRequest, "container is waiting to start"));
    let gone = log::refusal(StatusCode::NOT_FOUND, "pod does not exist", "web");
    assert_eq!(gone.message, "the server could not find the requested resource ( pods/log web)");
    assert_eq!((gone.code.as_u16(), gone.reason), (404, Reason::NotFound));
}
