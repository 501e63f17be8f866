//! Create, update, patch and delete, in the order in which a real API server looks at things.

use super::built_in;
use super::kinds::{Body, Kind};
use super::meta;
use super::patch::merge;
use super::status::{Cause, Refusal};
use super::store::{Key, Store, version_of};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// Where a write goes.
pub(super) struct Target<'a> {
    pub(super) place: usize,
    pub(super) kind: &'a Kind,
    pub(super) namespace: &'a str,
    /// Empty when the object names itself.
    pub(super) name: &'a str,
    /// The `/status` of the object is meant.
    pub(super) status: bool,
    /// Everything is checked and nothing is stored.
    pub(super) dry_run: bool,
    pub(super) now: Timestamp,
}

/// What came of a write.
#[derive(Debug)]
pub(super) enum Written {
    Created(Arc<Value>),
    /// Also when nothing had to be changed.
    Updated(Arc<Value>),
    /// Deleted at once; finalizers were not in the way.
    Deleted(Arc<Value>),
}

type Result<T> = std::result::Result<T, Box<Refusal>>;

/// Longest part of `generateName` that is kept: with what is appended a name has 63 characters.
const GENERATE_NAME: usize = 58;

impl Target<'_> {
    fn key(&self, name: &str) -> Key {
        Key::new(self.place, self.namespace, name)
    }

    pub(super) fn create(&self, store: &mut Store, body: Value) -> Result<Written> {
        let mut object = meta::decode(self.kind, body)?;
        self.check_namespace(&mut object)?;
        if !self.name.is_empty() && self.name != meta::text(&object, "name") {
            return Err(Refusal::bad_request("the name of the object does not match the name on the URL"));
        }
        let prefix = meta::text(&object, "generateName").to_owned();
        if meta::text(&object, "name").is_empty() && !prefix.is_empty() {
            let prefix = &prefix[..prefix.floor_char_boundary(GENERATE_NAME)];
            object["metadata"]["name"] = json!(format!("{prefix}{}", suffix(store.number())));
        }
        let name = meta::text(&object, "name").to_owned();
        let versioned = version_of(&object).is_some_and(|version| version > 0);
        if let Some(fields) = object["metadata"].as_object_mut() {
            // A generation in a kind without generations is kept.
            for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "uid"] {
                fields.remove(field);
            }
        }
        object["metadata"]["creationTimestamp"] = json!(seconds(self.now));
        meta::dedup_owners(&mut object);
        if self.kind.is_custom() {
            object["metadata"]["generation"] = json!(1);
            if self.kind.has_status
                && let Some(fields) = object.as_object_mut()
            {
                fields.remove("status");
            }
        }
        built_in::complete(self.kind, &mut object);
        self.validate(&object, &name, Vec::new())?;
        // It is the store that minds, which a dry run does not reach.
        if versioned && !self.dry_run {
            return Err(Refusal::without_reason(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let key = self.key(&name);
        if store.get(&key).is_some() {
            return Err(Refusal::already_exists(self.kind, &name));
        }
        object["metadata"]["uid"] = json!(uid(store.number()));
        if self.dry_run {
            return Ok(Written::Created(Arc::new(object)));
        }
        Ok(Written::Created(store.put(key, object)))
    }

    pub(super) fn replace(&self, store: &mut Store, body: Value) -> Result<Written> {
        let mut object = meta::decode(self.kind, body)?;
        self.check_namespace(&mut object)?;
        if meta::text(&object, "name") != self.name {
            let message = format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                meta::text(&object, "name"),
                self.name
            );
            return Err(Refusal::bad_request(message));
        }
        let Some(old) = store.get(&self.key(self.name)).cloned() else {
            if self.kind.create_on_update && !self.status {
                let wanted = meta::text(&object, "uid");
                if !wanted.is_empty() {
                    return Err(self.uid_differs(wanted, ""));
                }
                if let Some(fields) = object["metadata"].as_object_mut() {
                    fields.remove("resourceVersion");
                }
                return self.create(store, object);
            }
            return Err(Refusal::not_found(self.kind, self.name));
        };
        // Naming a uid, a replacement is meant for that object only. In a patch it is one more field.
        let (wanted, found) = (meta::text(&object, "uid"), meta::text(&old, "uid"));
        if !wanted.is_empty() && wanted != found {
            return Err(self.uid_differs(wanted, found));
        }
        self.update(store, &old, object)
    }

    pub(super) fn patch(&self, store: &mut Store, patch: Value) -> Result<Written> {
        let Some(old) = store.get(&self.key(self.name)).cloned() else {
            return Err(Refusal::not_found(self.kind, self.name));
        };
        if !patch.is_object() {
            return Err(Refusal::bad_request("the patch is not a JSON object"));
        }
        let mut merged = (*old).clone();
        merge(&mut merged, patch);
        let mut object = meta::decode(self.kind, merged).map_err(|refusal| self.bad_patch(&refusal))?;
        self.check_namespace(&mut object)?;
        if meta::text(&object, "name") != self.name {
            return Err(Refusal::bad_request("the name of the object does not match the name on the URL"));
        }
        self.update(store, &old, object)
    }

    fn update(&self, store: &mut Store, old: &Arc<Value>, mut new: Value) -> Result<Written> {
        let asked = meta::text(&new, "resourceVersion");
        match version_of(&new) {
            None if !asked.is_empty() => return Err(Refusal::without_reason("the resourceVersion is no number")),
            None if self.kind.unconditional_update => {}
            None => {
                let cause = Cause::invalid("metadata.resourceVersion", "0: must be specified for an update");
                return Err(Refusal::invalid(self.kind, self.name, &[cause]));
            }
            version if version != version_of(old) => return Err(Refusal::modified(self.kind, self.name)),
            Some(_) => {}
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        meta::dedup_owners(&mut new);
        if self.status {
            self.keep_all_but_status(&mut new, old);
        } else if self.kind.has_status {
            set_or_remove(&mut new, "status", &old["status"]);
        }
        let mut causes = Vec::new();
        meta::check_update(&mut new, old, &mut causes);
        if self.kind.is_custom() && !same_but_meta_and_status(&new, old) {
            new["metadata"]["generation"] = json!(generation(old) + 1);
        }
        built_in::complete(self.kind, &mut new);
        built_in::check_update(self.kind, &new, old, &mut causes);
        self.validate(&new, self.name, causes)?;
        if self.dry_run {
            return Ok(Written::Updated(Arc::new(new)));
        }
        let key = self.key(self.name);
        if meta::is_deleting(old) && meta::finalizers(&new).is_empty() {
            // The last finalizer went: the object goes, and nobody sees it without the finalizer.
            store.remove(&key);
            return Ok(Written::Updated(Arc::new(new)));
        }
        if new == **old {
            return Ok(Written::Updated(old.clone()));
        }
        Ok(Written::Updated(store.put(key, new)))
    }

    /// Through `/status` nothing else can be written.
    fn keep_all_but_status(&self, new: &mut Value, old: &Value) {
        let status = new["status"].take();
        *new = old.clone();
        set_or_remove(new, "status", &status);
    }

    /// Deletes, or begins to where there are finalizers.
    pub(super) fn delete(&self, store: &mut Store, options: &Value) -> Result<Written> {
        let key = self.key(self.name);
        let Some(old) = store.get(&key).cloned() else {
            return Err(Refusal::not_found(self.kind, self.name));
        };
        let wanted = &options["preconditions"];
        if let Some(uid) = wanted["uid"].as_str().filter(|uid| *uid != meta::text(&old, "uid")) {
            return Err(self.uid_differs(uid, meta::text(&old, "uid")));
        }
        if let Some(version) = wanted["resourceVersion"].as_str()
            && version != meta::text(&old, "resourceVersion")
        {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                meta::text(&old, "resourceVersion")
            );
            return Err(Refusal::conflict(self.kind, self.name, &why));
        }
        let policy = options["propagationPolicy"].as_str().unwrap_or("Background");
        if policy != "Background" {
            return Err(Refusal::bad_request(format!(
                "this server does not know propagationPolicy {policy}"
            )));
        }
        if meta::finalizers(&old).is_empty() {
            if !self.dry_run {
                store.remove(&key);
            }
            return Ok(Written::Deleted(old));
        }
        if meta::is_deleting(&old) {
            return Ok(Written::Updated(old));
        }
        let mut new = (*old).clone();
        new["metadata"]["deletionTimestamp"] = json!(seconds(self.now));
        new["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if generation(&old) > 0 {
            new["metadata"]["generation"] = json!(generation(&old) + 1);
        }
        if self.dry_run {
            return Ok(Written::Updated(Arc::new(new)));
        }
        Ok(Written::Updated(store.put(key, new)))
    }

    /// Of a patch whose result cannot be decoded, a real server says that the object is invalid.
    fn bad_patch(&self, refusal: &Refusal) -> Box<Refusal> {
        Refusal::invalid(self.kind, self.name, &[Cause::invalid("patch", refusal.message.as_str())])
    }

    fn uid_differs(&self, wanted: &str, found: &str) -> Box<Refusal> {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        Refusal::conflict(self.kind, self.name, &why)
    }

    fn check_namespace(&self, object: &mut Value) -> Result<()> {
        match meta::text(object, "namespace") {
            "" if self.namespace.is_empty() => {}
            "" => object["metadata"]["namespace"] = json!(self.namespace),
            given if given == self.namespace => {}
            _ => {
                let message = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Refusal::bad_request(message));
            }
        }
        Ok(())
    }

    fn validate(&self, object: &Value, name: &str, mut causes: Vec<Cause>) -> Result<()> {
        if object["kind"] != *self.kind.kind {
            causes.push(Cause::invalid("kind", format!("must be {}", self.kind.kind)));
        }
        meta::check(object, &mut causes);
        match &self.kind.body {
            Body::Custom(schema) => schema.check(object, "", &mut causes),
            Body::BuiltIn(_) => built_in::check(self.kind, object, &mut causes),
        }
        if causes.is_empty() {
            Ok(())
        } else {
            Err(Refusal::invalid(self.kind, name, &causes))
        }
    }
}

fn set_or_remove(object: &mut Value, field: &str, value: &Value) {
    if let Some(fields) = object.as_object_mut() {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.to_owned(), value.clone());
        }
    }
}

fn same_but_meta_and_status(one: &Value, other: &Value) -> bool {
    let rest = |object: &Value| {
        let mut fields = object.as_object().cloned().unwrap_or_default();
        fields.remove("metadata");
        fields.remove("status");
        fields
    };
    rest(one) == rest(other)
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// As Kubernetes writes times of metadata.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn uid(n: u64) -> String {
    format!("00000000-0000-4000-8000-{n:012x}")
}

/// Five characters, as a real server appends them.
fn suffix(n: u64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = n;
    let mut text = [b'b'; 5];
    for place in text.iter_mut().rev() {
        let at = usize::try_from(rest % LETTERS.len() as u64).unwrap_or(0);
        *place = LETTERS.get(at).copied().unwrap_or(b'b');
        rest /= LETTERS.len() as u64;
    }
    text.iter().map(|letter| char::from(*letter)).collect()
}
