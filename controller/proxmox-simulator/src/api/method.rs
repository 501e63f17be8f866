//! How a method of the API is declared, as Proxmox VE's own `register_method` does.

use std::pin::Pin;

use super::Call;
use super::schema::Parameter;
use crate::http::{ApiError, Data};
use crate::text_enum::text_enum;

text_enum! {
    /// HTTP methods the API knows.
    Verb {
        /// Read.
        Get = "GET",
        /// Act or create.
        Post = "POST",
        /// Change.
        Put = "PUT",
        /// Delete.
        Delete = "DELETE",
    }
}

/// What runs a method.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Result<Data, ApiError>> + Send>>;

/// What a method asks of its caller.
#[derive(Debug)]
pub(crate) enum Permission {
    /// Anyone who is authenticated.
    Anyone,
    /// One of the privileges on the path; `{name}` stands for a parameter.
    AnyOf(&'static str, &'static [&'static str]),
}

/// A method of the API.
pub(crate) struct Method {
    pub(crate) verb: Verb,
    /// `/nodes/{node}/...`.
    pub(crate) path: &'static str,
    pub(crate) permission: Permission,
    /// Handled by the node in the path.
    pub(crate) proxied: bool,
    /// May be called with an API token.
    pub(crate) allows_tokens: bool,
    /// Parameters, those of the path included.
    pub(crate) parameters: &'static [Parameter],
    pub(crate) handler: Handler,
}

impl Method {
    /// A method any token may call, handled by the node that receives it.
    pub(crate) const fn new(verb: Verb, path: &'static str, handler: Handler) -> Self {
        Self {
            verb,
            path,
            permission: Permission::Anyone,
            proxied: false,
            allows_tokens: true,
            parameters: &[],
            handler,
        }
    }

    pub(crate) const fn needs(mut self, path: &'static str, any_of: &'static [&'static str]) -> Self {
        self.permission = Permission::AnyOf(path, any_of);
        self
    }

    pub(crate) const fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    pub(crate) const fn needs_ticket(mut self) -> Self {
        self.allows_tokens = false;
        self
    }

    pub(crate) const fn takes(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }

    /// The parameters in the path, when it is this method's.
    pub(crate) fn matches(&self, verb: Verb, segments: &[&str]) -> Option<Vec<(&'static str, String)>> {
        let mut wanted = self.path.split('/').filter(|segment| !segment.is_empty());
        let mut found = Vec::new();
        for segment in segments {
            let pattern = wanted.next()?;
            match pattern.strip_prefix('{').and_then(|pattern| pattern.strip_suffix('}')) {
                Some(name) => found.push((name, (*segment).to_owned())),
                None if pattern == *segment => {}
                None => return None,
            }
        }
        (verb == self.verb && wanted.next().is_none()).then_some(found)
    }
}
