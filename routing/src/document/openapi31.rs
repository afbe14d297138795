//! OpenAPI 3.1: as 3.0, with shared path items; `paths` may be missing, which leaves nothing to serve.
//! Never serves `webhooks`: those are calls that the API makes, not calls it takes.

use super::Description;
use super::model::RawDocument;
use super::openapi30::describe_as;
use super::operations::Dialect;
use crate::error::Problems;

const OPENAPI_31: Dialect = Dialect {
    version: "OpenAPI 3.1",
    parameters_at: "#/components/parameters/",
    path_items_at: "#/components/pathItems/",
    has_trace: true,
};

pub(super) fn describe(raw: RawDocument, base_path_wanted: bool, problems: &mut Problems) -> Description {
    describe_as(&OPENAPI_31, raw, base_path_wanted, problems)
}
