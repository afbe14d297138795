//! The name of an object: whose body it is. Proved at construction, so that it is a path of three parts and no other.

use funcatron_broker::message::CallId;
use funcatron_broker::names::{AppNames, Installation};
use funcatron_crds::ObjectOf;
use object_store::path::Path;

/// Whose body an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    namespace: String,
    app: String,
    id: CallId,
}

impl ObjectName {
    /// `None` where namespace and App are no DNS labels.
    pub fn new(installation: &Installation, namespace: &str, app: &str, id: CallId) -> Option<Self> {
        AppNames::new(installation, namespace, app).ok()?;
        Some(Self { namespace: namespace.to_owned(), app: app.to_owned(), id })
    }

    /// The same out of the database, where only proved names stand.
    pub(crate) fn known(namespace: String, app: String, id: CallId) -> Self {
        Self { namespace, app, id }
    }

    /// The App's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The App.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The call.
    pub fn id(&self) -> CallId {
        self.id
    }

    /// What an address of it is signed over; `call` is its id as it is written.
    pub(super) fn of<'a>(&'a self, call: &'a str) -> ObjectOf<'a> {
        ObjectOf { namespace: &self.namespace, app: &self.app, call }
    }

    /// Where it is in the store.
    pub(super) fn path(&self, prefix: &Path) -> Path {
        let id = self.id.to_string();
        prefix.clone().join(self.namespace.as_str()).join(self.app.as_str()).join(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_of_three_parts_and_never_leads_elsewhere() {
        let (installation, id) = (Installation::parse("i").unwrap(), CallId::fresh());
        let name = ObjectName::new(&installation, "team-a", "shop", id).unwrap();
        let prefix = Path::from("calls");
        assert_eq!(name.path(&prefix).as_ref(), format!("calls/team-a/shop/{id}"));
        for odd in ["", "..", ".", "a/b", "../team-b", "a%2fb", "Team", "a.b", "a#1", "a\0"] {
            assert_eq!(ObjectName::new(&installation, odd, "shop", id), None, "{odd:?}");
            assert_eq!(ObjectName::new(&installation, "team-a", odd, id), None, "{odd:?}");
        }
    }
}
