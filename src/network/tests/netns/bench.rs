//! The built-in network beside upstream's bridge + host-local + portmap, in the same run.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    chain::bridge,
    support::{Host, Place, attachment},
};

const PODS: usize = 30;

fn report(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |share: usize| samples[samples.len() * share / 100].as_micros();
    eprintln!("{what:<22} p50 {:>7} µs   p90 {:>7} µs", at(50), at(90));
}

/// `cargo test --release -p network --test netns -- --ignored --nocapture bench`
#[test]
#[ignore = "a measurement: run it alone, by name"]
fn bench_add_and_del_beside_the_bridge_plugins() {
    let host = Host::new();
    let pods: Vec<Place> = (0..PODS).map(|_| Place::new()).collect();
    let attachments: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(index, place)| {
            let ports =
                json!({"portMappings": [{"hostPort": 9000 + index, "containerPort": 80, "protocol": "tcp"}]});
            attachment(&format!("c{index}"), place.path(), ports)
        })
        .collect();
    host.with(|network| network.reconcile()).unwrap();
    let all = attachments.clone();
    let (adds, dels) = host.with(move |network| {
        let time = |work: &dyn Fn()| {
            let started = Instant::now();
            work();
            started.elapsed()
        };
        let adds: Vec<_> = all.iter().map(|a| time(&|| drop(network.add(a).unwrap()))).collect();
        let dels: Vec<_> = all.iter().map(|a| time(&|| network.del(&a.id).unwrap())).collect();
        (adds, dels)
    });
    report("built-in ADD", adds);
    report("built-in DEL", dels);

    let state = host.state.path().to_path_buf();
    let (adds, dels) = host.place.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let chain = bridge(&state);
            let (mut adds, mut dels) = (Vec::new(), Vec::new());
            for attachment in &attachments {
                let started = Instant::now();
                chain.add(attachment).await.unwrap();
                adds.push(started.elapsed());
            }
            for attachment in &attachments {
                let started = Instant::now();
                chain.del(attachment).await.unwrap();
                dels.push(started.elapsed());
            }
            (adds, dels)
        })
    });
    report("bridge+portmap ADD", adds);
    report("bridge+portmap DEL", dels);
}
