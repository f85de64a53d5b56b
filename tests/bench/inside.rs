//! Asynchronous work in a host's network namespace: from there, and only from there, its API server, its pods and
//! its Services can be reached.

use std::{fs::File, path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Context, anyhow, bail};
use client::{Client, Kubeconfig};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use lifecycle::Scope;
use nix::sched::{CloneFlags, setns};
use serde::de::DeserializeOwned;

use crate::{hosts::Host, interrupt};

/// What nothing in a benchmark should ever need.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Runs `work` on threads that are in the host's network namespace, until it ends or somebody interrupts.
pub(crate) fn inside<T: Send>(
    host: &Host,
    work: impl AsyncFnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    interrupt::check()?;
    let namespace = namespace(host)?;
    let namespace = Arc::new(File::open(&namespace).with_context(|| namespace.display().to_string())?);
    let enter = move || setns(&*namespace, CloneFlags::CLONE_NEWNET);
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // This thread and all that the runtime starts: a socket belongs to the namespace of the thread that made it.
            enter().context("enter the host's network namespace")?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .on_thread_start(move || enter().expect("what one thread may, the next may too"))
                .build()?;
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = work() => outcome,
                    () = interrupt::asked() => bail!("interrupted"),
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome
        });
        thread.join().unwrap_or_else(|_| bail!("a panic, see above"))
    })
    .inspect_err(|_| {
        if interrupt::check().is_ok() {
            eprintln!("--- the end of coracle's log\n{}\n---", host.log_tail());
        }
    })
}

/// Where `Host::inside` enters.
pub(crate) fn namespace(host: &Host) -> anyhow::Result<PathBuf> {
    let command = host.inside("true");
    let argument = command.get_args().next().and_then(|argument| argument.to_str());
    let path = argument.and_then(|argument| argument.strip_prefix("--net="));
    path.map(PathBuf::from).ok_or_else(|| anyhow!("the host's commands name no network namespace"))
}

/// The host's API as its administrator, over one TLS connection. Fails before `coracle up` has written the kubeconfig.
pub(crate) fn connect(host: &Host, scope: &Scope) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::load(&PathBuf::from(host.state()).join("admin.kubeconfig"))?;
    Ok(client::connect(kubeconfig.endpoint(None)?, scope)?.0)
}

/// Looks again until there is something, for steps that are not measured.
pub(crate) async fn eventually<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        let found = look().await;
        match found {
            Ok(Some(found)) => return Ok(found),
            Ok(None) | Err(_) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(None) => bail!("not within {} s: {what}", DEADLINE.as_secs()),
            Err(error) => return Err(error.context(format!("not within {} s: {what}", DEADLINE.as_secs()))),
        }
    }
}

/// An object from JSON, as one would write it in a manifest.
pub(crate) fn object<K: DeserializeOwned>(json: serde_json::Value) -> anyhow::Result<K> {
    serde_json::from_value(json).context("an object of the benchmark is not what its kind says")
}

/// Sees the objects of one kind change, from its start on.
pub(crate) struct Watcher<K>(BoxStream<'static, kube::Result<WatchEvent<K>>>);

impl<K> Watcher<K>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    pub(crate) async fn start(api: &Api<K>) -> anyhow::Result<Self> {
        let now = api.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
        let now = now.ok_or_else(|| anyhow!("a list without a resourceVersion"))?;
        let events = api.watch(&WatchParams::default().disable_bookmarks(), &now).await?;
        Ok(Self(boxed(events)))
    }

    /// Consumes events until one is what is waited for.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        is: impl Fn(&WatchEvent<K>) -> bool,
    ) -> anyhow::Result<WatchEvent<K>> {
        let seen = async {
            while let Some(event) = self.0.next().await {
                match event? {
                    WatchEvent::Error(status) => bail!("the watch was ended: {}", status.message),
                    event if is(&event) => return Ok(event),
                    _ => {}
                }
            }
            bail!("the watch has ended before: {what}")
        };
        match tokio::time::timeout(DEADLINE, seen).await {
            Ok(seen) => seen,
            Err(_) => bail!("not within {} s: {what}", DEADLINE.as_secs()),
        }
    }
}

fn boxed<T: 'static>(stream: impl Stream<Item = T> + Send + 'static) -> BoxStream<'static, T> {
    stream.boxed()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
