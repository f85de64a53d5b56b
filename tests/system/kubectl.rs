//! Real kubectl against a real cluster: each command that a user types in the first hour, with what it prints.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    time::Duration,
};

use crate::hosts::Host;

const SECONDS_60: Duration = Duration::from_secs(60);

const DEMO: &str = include_str!("../../deploy/demo.yaml");

/// A pod that says a line each second and answers to `cat`.
const TALKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: coracle.dev/demo:1
    command: [sh, -c, 'i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2; done']
";

#[test]
fn kubectl_drives_the_cluster() {
    let mut host = Host::new("kubectl");
    host.up();
    let steps: &[crate::Step] = &[
        ("apply and rollout status", apply),
        ("get", get),
        ("describe", describe),
        ("explain", explain),
        ("label", label),
        ("scale", scale),
        ("patch, rollout undo and restart", rollout),
        ("logs", logs),
        ("exec", exec),
        ("port-forward", port_forward),
        ("get --watch", watch),
        ("strict decoding", strict_decoding),
        ("an image that does not exist", missing_image),
        ("configuration", configuration),
        ("auth can-i", can_i),
        ("top", top),
        ("delete", delete),
    ];
    for (name, step) in steps {
        eprintln!("kubectl: {name}");
        step(&host);
    }
}

fn apply(host: &Host) {
    let said = host.apply(DEMO);
    assert_eq!(said, "deployment.apps/demo created\nservice/demo created\n");
    assert_eq!(host.apply(DEMO), "deployment.apps/demo unchanged\nservice/demo unchanged\n");
    let said = host.k(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    assert!(said.ends_with("deployment \"demo\" successfully rolled out\n"), "{said}");
    host.k(&["wait", "--for=condition=Available", "deployment/demo", "--timeout=30s"]);
    let cluster_ip = host.k(&["get", "service", "demo", "-o", "jsonpath={.spec.clusterIP}"]);
    for url in [format!("http://{cluster_ip}/"), format!("http://{}:30080/", Host::ADDRESS)] {
        let page = host.eventually("the page is served", SECONDS_60, |host| host.fetch(&url));
        assert!(page.contains("Hello from a pod on Coracle"), "{page}");
    }
}

fn get(host: &Host) {
    let wide = host.k(&["get", "pods", "-o", "wide"]);
    let heading: Vec<&str> = wide.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading,
        [
            "NAME",
            "READY",
            "STATUS",
            "RESTARTS",
            "AGE",
            "IP",
            "NODE",
            "NOMINATED",
            "NODE",
            "READINESS",
            "GATES"
        ]
    );
    let rows: Vec<&str> = wide.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{wide}");
    assert!(rows.iter().all(|row| row.contains("1/1     Running   0") && row.contains("10.244.")), "{wide}");

    let deployment = host.k(&["get", "deploy"]);
    assert!(
        deployment.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE\ndemo   2/2     2            2 "),
        "{deployment}"
    );
    let services = host.k(&["get", "svc"]);
    assert!(services.contains("kubernetes   ClusterIP   10.96.0.1 "), "{services}");
    assert!(services.contains("80:30080/TCP"), "{services}");
    let yaml = host.k(&["get", "deployment", "demo", "-o", "yaml"]);
    assert!(yaml.starts_with("apiVersion: apps/v1\nkind: Deployment\n"), "{yaml}");
    assert!(yaml.contains("maxSurge: 25%"), "defaults are filled in: {yaml}");
    let names = host.k(&[
        "get",
        "pods",
        "-l",
        "app=demo",
        "-o",
        "custom-columns=NAME:.metadata.name,NODE:.spec.nodeName",
    ]);
    assert!(names.starts_with("NAME ") && names.lines().count() == 3, "{names}");
    let node = host.k(&["get", "nodes"]);
    assert!(node.contains(" Ready ") && node.contains("v1.36"), "{node}");
    let all = host.k(&["get", "all", "-A"]);
    assert!(all.contains("replicaset.apps/demo-"), "{all}");
    assert!(
        host.k_fails(&["get", "pod", "nobody"])
            .contains("Error from server (NotFound): pods \"nobody\" not found")
    );
    assert!(
        host.k_fails(&["get", "widgets"]).contains("the server doesn't have a resource type \"widgets\"")
    );
}

fn describe(host: &Host) {
    let name = host.k(&["get", "pods", "-l", "app=demo", "-o", "jsonpath={.items[0].metadata.name}"]);
    let pod = host.k(&["describe", "pod", &name]);
    for words in [
        "Successfully assigned default/demo-",
        "Container created",
        "Container started",
        "QoS Class:",
        "Readiness:",
        "kube-api-access-",
    ] {
        assert!(pod.contains(words), "{words} in {pod}");
    }
    let node = host.k(&["describe", "nodes"]);
    for words in ["KubeletReady", "Allocated resources:", "containerd://"] {
        assert!(node.contains(words), "{words} in {node}");
    }
    let service = host.k(&["describe", "service", "demo"]);
    assert!(service.contains(":8080,10.244."), "two endpoints: {service}");
    let deployment = host.k(&["describe", "deployment", "demo"]);
    assert!(deployment.contains("Scaled up replica set demo-"), "{deployment}");
}

fn explain(host: &Host) {
    let field = host.k(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]);
    assert!(field.contains("FIELD: maxSurge <IntOrString>") && field.contains("VERSION:    v1"), "{field}");
    let pod = host.k(&["explain", "pods.spec.containers"]);
    assert!(pod.contains("imagePullPolicy") && pod.contains("-required-"), "{pod}");
}

fn label(host: &Host) {
    assert_eq!(host.k(&["label", "deployment", "demo", "tier=web"]), "deployment.apps/demo labeled\n");
    let found = host.k(&["get", "deployments", "-l", "tier in (web),!gone", "-o", "name"]);
    assert_eq!(found, "deployment.apps/demo\n");
    assert!(
        host.k_fails(&["label", "deployment", "demo", "bad=a/b"])
            .contains("a valid label must be an empty string or consist of alphanumeric characters")
    );
    host.k(&["annotate", "deployment", "demo", "note=seen"]);
    assert_eq!(host.k(&["get", "deployment", "demo", "-o", "jsonpath={.metadata.annotations.note}"]), "seen");
}

fn scale(host: &Host) {
    assert_eq!(host.k(&["scale", "deployment/demo", "--replicas=3"]), "deployment.apps/demo scaled\n");
    host.k(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    assert_eq!(host.k(&["get", "pods", "-l", "app=demo", "-o", "name"]).lines().count(), 3);
    host.k(&["scale", "deployment/demo", "--replicas=1"]);
    host.eventually("one pod is left", SECONDS_60, |host| {
        let pods = host.k(&["get", "pods", "-l", "app=demo", "-o", "name"]);
        (pods.lines().count() == 1).then_some(()).ok_or(pods)
    });
}

fn rollout(host: &Host) {
    let image = |host: &Host| {
        host.k(&["get", "deploy", "demo", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value}"])
    };
    let environment = |value: &str| {
        format!(
            r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"web","env":[{{"name":"GENERATION","value":"{value}"}}]}}]}}}}}}}}"#
        )
    };
    for value in ["one", "two"] {
        // A strategic merge patch, as `kubectl edit` sends: the list of containers is merged by name.
        host.k(&["patch", "deployment", "demo", "-p", &environment(value)]);
        host.k(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
        assert_eq!(image(host), value);
    }
    assert_eq!(host.k(&["rollout", "undo", "deployment/demo"]), "deployment.apps/demo rolled back\n");
    host.k(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    assert_eq!(image(host), "one");
    let history = host.k(&["rollout", "history", "deployment/demo"]);
    assert!(history.contains("REVISION"), "{history}");
    let before = host.k(&["get", "pods", "-l", "app=demo", "-o", "jsonpath={.items[*].metadata.uid}"]);
    assert_eq!(host.k(&["rollout", "restart", "deployment/demo"]), "deployment.apps/demo restarted\n");
    host.k(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    host.eventually("the old pod is gone", SECONDS_60, |host| {
        let now = host.k(&["get", "pods", "-l", "app=demo", "-o", "jsonpath={.items[*].metadata.uid}"]);
        (!now.contains(&before)).then_some(()).ok_or(now)
    });
}

fn logs(host: &Host) {
    host.apply(TALKER);
    host.k(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=60s"]);
    let mut follow =
        host.kubectl_command().args(["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines.by_ref().take(8).map(Result::unwrap).collect();
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert_eq!(seen[0], "line 0");
    assert_eq!(seen[7], "line 7");
    assert_eq!(host.k(&["logs", "talker", "--tail=1"]).lines().count(), 1);
    assert!(host.k(&["logs", "talker", "--timestamps", "--tail=1"]).starts_with("20"));
    assert!(!host.k(&["logs", "talker", "--since=1s"]).contains("line 0\n"));
    assert!(
        host.k_fails(&["logs", "talker", "--previous"])
            .contains("previous terminated container \"main\" in pod \"talker\" not found")
    );
    assert!(
        host.k_fails(&["logs", "talker", "-c", "other"])
            .contains("container other is not valid for pod talker")
    );
}

fn exec(host: &Host) {
    assert_eq!(host.k(&["exec", "talker", "--", "echo", "hello"]), "hello\n");
    let mut cat = host
        .kubectl_command()
        .args(["exec", "-i", "talker", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // `cat` ends when its input does: this needs the half-close of WebSocket v5.
    cat.stdin.take().unwrap().write_all(b"through and back").unwrap();
    let output = cat.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"through and back");
    let failed = host.kubectl(&["exec", "talker", "--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.status.code(), Some(3));
    assert!(host.k_fails(&["exec", "talker", "--", "no-such-program"]).contains("executable file not found"));
}

fn port_forward(host: &Host) {
    let mut forward = host
        .kubectl_command()
        .args(["port-forward", "deployment/demo", ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(forward.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let port = first
        .split_whitespace()
        .nth(2)
        .and_then(|address| address.rsplit(':').next())
        .unwrap_or_else(|| panic!("{first}"))
        .to_string();
    let pages: Vec<_> = (0..3).map(|_| host.fetch(&format!("http://127.0.0.1:{port}/"))).collect();
    forward.kill().unwrap();
    forward.wait().unwrap();
    for page in pages {
        assert!(page.as_ref().is_ok_and(|page| page.contains("Hello from a pod")), "{page:?}");
    }
}

fn watch(host: &Host) {
    let mut watch = host
        .kubectl_command()
        .args(["get", "configmaps", "--watch-only", "-o", "name"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The watch may start after the first of these: it sees one of them, and later the others.
    let names: Vec<String> = (0..50).map(|n| format!("watched-{n}")).collect();
    let mut made = 0;
    std::thread::scope(|scope| {
        let line = scope.spawn(move || lines.next().unwrap().unwrap());
        while !line.is_finished() && made < names.len() {
            host.k(&["create", "configmap", &names[made]]);
            made += 1;
        }
        assert!(line.join().unwrap().starts_with("configmap/watched-"));
    });
    watch.kill().unwrap();
    watch.wait().unwrap();
    for name in &names[..made] {
        host.k(&["delete", "configmap", name]);
    }
}

fn strict_decoding(host: &Host) {
    let wrong = DEMO.replace("  replicas: 2", "  replica: 2");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), wrong).unwrap();
    let said = host.k_fails(&["apply", "-f", file.path().to_str().unwrap()]);
    assert!(said.contains("strict decoding error: unknown field \"spec.replica\""), "{said}");
    let said = host.k_fails(&["create", "deployment", "Bad_Name", "--image=x"]);
    assert!(
        said.contains("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"),
        "{said}"
    );
}

fn missing_image(host: &Host) {
    host.k(&["run", "missing", "--image=127.0.0.1:1/nothing:here", "--restart=Never"]);
    let message = host.eventually("the image is not found", SECONDS_60, |host| {
        let waiting =
            host.k(&["get", "pod", "missing", "-o", "jsonpath={.status.containerStatuses[0].state.waiting}"]);
        (waiting.contains("ErrImagePull") || waiting.contains("ImagePullBackOff"))
            .then_some(waiting.clone())
            .ok_or(waiting)
    });
    assert!(message.contains("127.0.0.1:1/nothing:here"), "{message}");
    let events = host.k(&["get", "events", "--field-selector", "involvedObject.name=missing,reason=Failed"]);
    assert!(events.contains("Failed to pull image"), "{events}");
    host.k(&["delete", "pod", "missing", "--now"]);
}

fn configuration(host: &Host) {
    host.k(&["create", "configmap", "settings", "--from-literal=color=blue", "--from-literal=shape=round"]);
    host.k(&["create", "secret", "generic", "secrets", "--from-literal=password=hunter2"]);
    host.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: configured, annotations: {note: annotated}}
spec:
  restartPolicy: Never
  initContainers:
  - {name: first, image: 'coracle.dev/demo:1', command: [sh, -c, 'echo made by init > /shared/file'], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: main
    image: coracle.dev/demo:1
    command: [sh, -c, 'echo $COLOR $shape $PASSWORD $NODE $LIMIT; cat /shared/file /etc/settings/color /etc/secrets/password /etc/pod/note; cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; id -u']
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: secrets, key: password}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    envFrom: [{configMapRef: {name: settings}}]
    resources: {limits: {memory: 16Mi}}
    securityContext: {runAsUser: 1234, readOnlyRootFilesystem: true}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: settings, mountPath: /etc/settings}
    - {name: secrets, mountPath: /etc/secrets}
    - {name: pod, mountPath: /etc/pod}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: secrets, secret: {secretName: secrets, defaultMode: 0444}}
  - {name: pod, downwardAPI: {items: [{path: note, fieldRef: {fieldPath: \"metadata.annotations['note']\"}}]}}
",
    );
    host.k(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/configured", "--timeout=60s"]);
    let said = host.k(&["logs", "configured"]);
    let expected = format!(
        "blue round hunter2 {} 16777216\nmade by init\nbluehunter2annotateddefault1234\n",
        Host::ADDRESS
    );
    assert_eq!(said, expected);
    host.k(&["delete", "pod", "configured"]);
}

fn can_i(host: &Host) {
    assert_eq!(host.k(&["auth", "can-i", "create", "pods"]), "yes\n");
    let refused =
        host.kubectl(&["auth", "can-i", "list", "secrets", "--as=system:serviceaccount:default:default"]);
    assert_eq!(String::from_utf8_lossy(&refused.stdout), "no\n");
    let who = host.k(&["auth", "whoami"]);
    assert!(who.contains("system:masters") || who.contains("cluster-admins"), "{who}");
}

fn top(host: &Host) {
    // There is no metrics API yet; this is kubectl's word for that.
    assert!(host.k_fails(&["top", "nodes"]).contains("Metrics API not available"));
}

fn delete(host: &Host) {
    let said = host.k(&["delete", "pod", "talker"]);
    assert!(said.starts_with("pod \"talker\" deleted"), "{said}");
    host.k(&["delete", "deployment/demo", "service/demo"]);
    host.eventually("the garbage collector removes the pods", SECONDS_60, |host| {
        let pods = host.k(&["get", "pods", "-o", "name"]);
        pods.is_empty().then_some(()).ok_or(pods)
    });
    host.eventually("no container is left", SECONDS_60, |host| {
        let running = host.running_containers();
        running.is_empty().then_some(()).ok_or(format!("{running:?}"))
    });
    host.k(&["create", "namespace", "short-lived"]);
    host.k(&["create", "configmap", "inside", "-n", "short-lived"]);
    host.k(&["delete", "namespace", "short-lived", "--timeout=60s"]);
    assert!(host.k_fails(&["get", "configmap", "inside", "-n", "short-lived"]).contains("NotFound"));
}
