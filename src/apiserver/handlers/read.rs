//! get and list.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{KeyRange, RangeRequest, Revision, StoreError};

use super::{
    call::{Api, Call},
    options::{ListOptions, Version, VersionMatch, read_version},
    respond,
    token::Token,
};
use crate::{
    body::Body,
    cache::{Entry, Selection},
    encode::{
        accept::{Format, Shape},
        list::{self, ListMeta},
        object, partial, table,
    },
    status::ApiError,
};

const EXPIRED: &str = "The resourceVersion for the provided list is too old.";
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// One object.
pub(crate) async fn get(api: &Api, call: &Call) -> Result<Response<Body>, ApiError> {
    fresh_enough(api, read_version(call.info.query.get("resourceVersion"))?).await?;
    let entry = call.cache(api)?.get(call.namespace(), &call.info.name);
    let entry = entry.ok_or_else(|| ApiError::not_found(&call.what(), &call.info.name))?;
    respond::object(call, StatusCode::OK, &entry.bytes)
}

/// Waits until the cache may answer for a version; unset is what the store holds now.
pub(super) async fn fresh_enough(api: &Api, version: Version) -> Result<u64, ApiError> {
    match version {
        Version::Unset => api.cache.caught_up().await,
        Version::Any => Ok(api.cache.progress()),
        Version::At(revision) => api.cache.wait_for(revision).await,
    }
}

/// A page of objects, and what says where it is from.
pub(super) struct Page {
    entries: Vec<Arc<Entry>>,
    meta: ListMeta,
}

pub(crate) async fn list(api: &Api, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::read(&call.info.query, false)?;
    let selection = selection(call, &options)?;
    let page = page(api, call, &options, &selection).await?;
    render(call, page)
}

/// What a collection request selects.
pub(super) fn selection(call: &Call, options: &ListOptions) -> Result<Selection, ApiError> {
    let (labels, fields) = (options.labels.as_deref(), options.fields.as_deref());
    Selection::new(&call.row, call.namespace(), &call.info.name, labels, fields)
}

async fn page(
    api: &Api,
    call: &Call,
    options: &ListOptions,
    selection: &Selection,
) -> Result<Page, ApiError> {
    let prefix = call.row.prefix();
    let token = options.continue_token.as_deref().map(|text| Token::decode(text, &prefix)).transpose()?;
    if token.is_some() && matches!(options.resource_version, Version::At(_)) {
        let message = "specifying resource version is not allowed when using continue";
        return Err(ApiError::bad_request(message));
    }
    let at = match (&token, options.resource_version, options.version_match) {
        (Some(token), _, _) => token.revision,
        (None, Version::At(revision), Some(VersionMatch::Exact)) => Some(revision),
        (None, Version::At(revision), None) if options.limit > 0 => Some(revision),
        _ => None,
    };
    let start = token.as_ref().map(|token| token.start.as_str());
    let needed = match (at, options.resource_version) {
        (Some(revision), _) => Version::At(revision),
        (None, _) if token.is_some() => Version::Unset,
        (None, version) => version,
    };
    let progress = fresh_enough(api, needed).await?;
    let cache = call.cache(api)?;
    let snapshot = cache.list(selection, start, options.limit);
    let current = progress.max(snapshot.changed);
    match at {
        // Nothing changed since: the present is that past.
        Some(revision) if snapshot.changed > revision => {
            past_page(api, call, options, selection, start, revision).await
        }
        _ => {
            let revision = at.unwrap_or(current);
            let meta = list_meta(call, options, selection, &snapshot.entries, snapshot.remaining, revision);
            Ok(Page { entries: snapshot.entries, meta })
        }
    }
}

fn list_meta(
    call: &Call,
    options: &ListOptions,
    selection: &Selection,
    entries: &[Arc<Entry>],
    remaining: usize,
    revision: u64,
) -> ListMeta {
    let more = options.limit > 0 && remaining > 0;
    let last = entries.last().filter(|_| more);
    let token = last.map(|last| Token::after(&last.key, revision).encode(&call.row.prefix()));
    let counted = more && !selection.has_selectors();
    ListMeta { resource_version: revision, continue_token: token, remaining: counted.then_some(remaining) }
}

/// A page as of an older revision, from the store's history.
async fn past_page(
    api: &Api,
    call: &Call,
    options: &ListOptions,
    selection: &Selection,
    start: Option<&str>,
    revision: u64,
) -> Result<Page, ApiError> {
    let prefix = if call.namespace().is_empty() || !call.row.is_namespaced() {
        call.row.prefix()
    } else {
        format!("{}{}/", call.row.prefix(), call.namespace())
    };
    let KeyRange::Span { start: first, end } = KeyRange::prefix(prefix.clone()) else {
        return Err(ApiError::internal("a prefix is a span"));
    };
    let from = start
        .filter(|start| *start > prefix.as_str())
        .map_or(first, |start| Bytes::copy_from_slice(start.as_bytes()));
    let at = Revision(i64::try_from(revision).unwrap_or(i64::MAX));
    let mut request = RangeRequest::new(KeyRange::Span { start: from, end }).at(at);
    // Where every object counts, the store says how many there are beyond the page.
    let all_count = options.limit > 0 && !selection.has_selectors();
    request.limit = all_count.then_some(options.limit);
    let range = api.cache.store().range(request).await.map_err(|error| match error {
        StoreError::Compacted { .. } => compacted(call, start),
        error => ApiError::internal(error),
    })?;
    let mut entries = Vec::new();
    let mut remaining = range.count.saturating_sub(range.kvs.len());
    for kv in range.kvs {
        let Ok(key) = str::from_utf8(&kv.key) else { continue };
        let entry =
            Entry::at(&call.row, key, kv.value.clone(), crate::cache::dispatcher_number(kv.mod_revision));
        if !selection.matches(&entry.header) {
            continue;
        }
        if options.limit > 0 && entries.len() == options.limit {
            // With selectors it is enough to know that there is one more.
            remaining += 1;
            break;
        }
        entries.push(Arc::new(entry));
    }
    let meta = list_meta(call, options, selection, &entries, remaining, revision);
    Ok(Page { entries, meta })
}

/// 410; a list that was under way gets a token to go on inconsistently.
fn compacted(call: &Call, start: Option<&str>) -> ApiError {
    let Some(start) = start else { return ApiError::expired(EXPIRED) };
    let token = Token { revision: None, start: start.to_string() };
    let mut error = ApiError::expired(CONTINUE_EXPIRED);
    error.continue_token = Some(token.encode(&call.row.prefix()));
    error
}

fn render(call: &Call, page: Page) -> Result<Response<Body>, ApiError> {
    if call.wanted.shape == Shape::Object && call.wanted.format == Format::Json {
        return Ok(render_bytes(call, page));
    }
    let mut objects = Vec::with_capacity(page.entries.len());
    for entry in &page.entries {
        let mut value = entry.value().map_err(ApiError::internal)?;
        call.to_served(&mut value);
        objects.push(value);
    }
    let list = match call.wanted.shape {
        Shape::Table => table::table(&call.row, &objects, Some(&page.meta), call.wanted.include, call.now),
        Shape::Partial => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": partial::API_VERSION,
            "metadata": page.meta.to_value(),
            "items": objects.iter().map(partial::partial).collect::<Vec<Value>>(),
        }),
        Shape::Object => json!({
            "kind": format!("{}List", call.row.kind), "apiVersion": call.version().api_version(),
            "metadata": page.meta.to_value(), "items": objects,
        }),
    };
    Ok(respond::value(StatusCode::OK, call.wanted, &list))
}

/// The common case: the cached bytes, one after the other.
fn render_bytes(call: &Call, page: Page) -> Response<Body> {
    let kind = format!("{}List", call.row.kind);
    let api_version = call.version().api_version();
    let stored_prefix = object::type_prefix(&call.row.kind, &call.row.storage().api_version());
    let size: usize = page.entries.iter().map(|entry| entry.bytes.len()).sum();
    let (row, served) = (call.row.clone(), call.served);
    let items = page.entries.into_iter().map(move |entry| match row.served[served].conversion {
        None => entry.bytes.clone(),
        Some(conversion) => {
            let mut value = entry.value().unwrap_or_default();
            (conversion.from_storage)(&mut value);
            value["apiVersion"] = row.served[served].api_version().into();
            serde_json::to_vec(&value).unwrap_or_default().into()
        }
    });
    let chunks = list::chunks(&kind, &api_version, &page.meta, stored_prefix, items);
    respond::json_chunks(StatusCode::OK, chunks, size, call.wanted)
}
