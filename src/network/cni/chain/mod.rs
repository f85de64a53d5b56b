//! Runs a chain of plugins in the spec's order: ADD forwards, each with the result of the one before;
//! DEL backwards, with the result of ADD.

use serde_json::{Map, Value};
use tracing::warn;

use crate::cni::{
    cache::{Cache, CacheError, Cached},
    convert::{from_json, to_json},
    error::{CniError, Code},
    exec::{Exec, Invocation},
    list::{NetworkList, Plugin},
    merge::{gc_config, plugin_config},
    model::{Attachment, AttachmentId, Command, NetworkResult},
};

/// One network made by plugins.
#[derive(Debug)]
pub struct Chain<E> {
    list: NetworkList,
    cache: Cache,
    exec: E,
}

impl<E: Exec> Chain<E> {
    #[must_use]
    pub fn new(list: NetworkList, cache: Cache, exec: E) -> Self {
        Self { list, cache, exec }
    }

    #[must_use]
    pub fn list(&self) -> &NetworkList {
        &self.list
    }

    /// # Errors
    /// What the first failing plugin said. What the ones before it made stays until DEL.
    pub async fn add(&self, attachment: &Attachment) -> Result<NetworkResult, CniError> {
        let mut previous: Option<Value> = None;
        for plugin in &self.list.plugins {
            let config = plugin_config(&self.list, plugin, &attachment.capabilities, previous.as_ref());
            let answer = self.run(plugin, Command::Add, Some(attachment), config).await?;
            let result = from_json(&answer).map_err(|error| of_plugin(plugin, error))?;
            previous = Some(to_json(&result, self.list.version));
        }
        let result = previous.unwrap_or(Value::Null);
        let cached = Cached {
            network: self.list.name.clone(),
            attachment: attachment.clone(),
            result: result.clone(),
        };
        self.cache.put(&cached).await.map_err(|error| cache_failure(&error))?;
        from_json(&result)
    }

    /// Succeeds for what is not attached.
    ///
    /// # Errors
    /// What the first failing plugin said; the rest is left to the next DEL.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), CniError> {
        let cached = match self.cache.get(&self.list.name, attachment).await {
            Ok(cached) => cached,
            // A broken cache must not keep a pod from being torn down: plugins must do without.
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "network: cached result unusable");
                None
            }
        };
        let previous = cached.as_ref().map(|cached| &cached.result).filter(|_| self.list.version.has_check());
        let capabilities = capabilities_of(attachment, cached.as_ref());
        for plugin in self.list.plugins.iter().rev() {
            let config = plugin_config(&self.list, plugin, capabilities, previous);
            self.run(plugin, Command::Del, Some(attachment), config).await?;
        }
        self.cache.remove(&self.list.name, attachment).await.map_err(|error| cache_failure(&error))
    }

    /// # Errors
    /// What the first plugin that finds something amiss said.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        if !self.list.version.has_check() {
            let msg = format!(
                "configuration version {:?} does not support CHECK command",
                self.list.version.as_str()
            );
            return Err(CniError::new(Code::INCOMPATIBLE_VERSION, msg));
        }
        if self.list.disable_check {
            return Ok(());
        }
        let cached =
            self.cache.get(&self.list.name, attachment).await.map_err(|error| cache_failure(&error))?;
        let previous = cached.as_ref().map(|cached| &cached.result);
        let capabilities = capabilities_of(attachment, cached.as_ref());
        for plugin in &self.list.plugins {
            let config = plugin_config(&self.list, plugin, capabilities, previous);
            self.run(plugin, Command::Check, Some(attachment), config).await?;
        }
        Ok(())
    }

    /// Detaches what is cached and not in `valid`, then has the plugins look for more.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn gc(&self, valid: &[AttachmentId]) -> Result<(), CniError> {
        if self.list.disable_gc {
            return Ok(());
        }
        let mut first = self.detach_all_but(valid).await?;
        if self.list.version.has_gc() {
            for plugin in &self.list.plugins {
                if let Err(error) =
                    self.run(plugin, Command::Gc, None, gc_config(&self.list, plugin, valid)).await
                {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Detaches everything. For reset, where nobody else uses the plugins' state any more, which is why some lists
    /// forbid GC.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn clear(&self) -> Result<(), CniError> {
        self.detach_all_but(&[]).await?.map_or(Ok(()), Err)
    }

    /// The first failure, after everything was tried.
    async fn detach_all_but(&self, valid: &[AttachmentId]) -> Result<Option<CniError>, CniError> {
        let mut first = None;
        for cached in self.cache.list(&self.list.name).await.map_err(|error| cache_failure(&error))? {
            if !valid.contains(&cached.attachment.id)
                && let Err(error) = self.del(&cached.attachment).await
            {
                first.get_or_insert(error);
            }
        }
        Ok(first)
    }

    /// Whether the network can take ADD. Versions before 1.1 cannot be asked.
    ///
    /// # Errors
    /// What the first plugin that is not ready said.
    pub async fn status(&self) -> Result<(), CniError> {
        if !self.list.version.has_gc() {
            return Ok(());
        }
        for plugin in &self.list.plugins {
            let config = plugin_config(&self.list, plugin, &Map::new(), None);
            self.run(plugin, Command::Status, None, config).await?;
        }
        Ok(())
    }

    async fn run(
        &self,
        plugin: &Plugin,
        command: Command,
        attachment: Option<&Attachment>,
        stdin: Value,
    ) -> Result<Value, CniError> {
        let plugin = plugin.kind.clone();
        self.exec.run(Invocation { plugin, command, attachment: attachment.cloned(), stdin }).await
    }
}

/// The runtime's capability values, or those of ADD where it gives none.
fn capabilities_of<'a>(attachment: &'a Attachment, cached: Option<&'a Cached>) -> &'a Map<String, Value> {
    match cached {
        Some(cached) if attachment.capabilities.is_empty() => &cached.attachment.capabilities,
        _ => &attachment.capabilities,
    }
}

fn of_plugin(plugin: &Plugin, error: CniError) -> CniError {
    CniError { msg: format!("plugin {}: {}", plugin.kind, error.msg), ..error }
}

fn cache_failure(error: &CacheError) -> CniError {
    CniError::caused(Code::IO_FAILURE, "the cached result", error)
}

#[cfg(test)]
mod tests;
