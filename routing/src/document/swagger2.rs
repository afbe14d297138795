//! Swagger 2.0: `host`, `basePath`, shared parameters at the root.
//! Never decides whether `host` may be served.

use super::model::RawDocument;
use super::operations::{Dialect, Parts, collect};
use super::{BasePathText, Description};
use crate::error::Problems;

const SWAGGER_2: Dialect =
    Dialect { version: "Swagger 2.0", parameters_at: "#/parameters/", path_items_at: "", has_trace: false };

pub(super) fn describe(raw: RawDocument, _base_path_wanted: bool, problems: &mut Problems) -> Description {
    let parts = Parts {
        paths: raw.paths.unwrap_or_default().0,
        path_items: Default::default(),
        parameters: raw.parameters.unwrap_or_default().0,
    };
    Description {
        host: raw.host,
        base_path: raw.base_path.map(|text| BasePathText { at: "document#/basePath", text }),
        fn_name: raw.fn_name,
        operations: collect(&parts, &SWAGGER_2, problems),
    }
}
