//! What must be at hand before a revision is loaded: its run document and its code, both as their digests say.

use std::io;
use std::path::Path;
use std::sync::Arc;

use funcatron_crds::RunDocument;

use crate::code_store::{Code, CodeError, CodeStore};
use crate::fetch::{FetchError, Fetcher};
use crate::session::{Identity, Subject};
use crate::wake::Source;

/// A run document rides in one ConfigMap, like code.
const DOCUMENT_BYTES_MAX: usize = 1_000_000;

/// Why a revision could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("fetch run document: {0}")]
    FetchDocument(#[from] FetchError),
    #[error("the run document is {0}")]
    Document(&'static str),
    #[error(transparent)]
    Code(#[from] CodeError),
}

/// Fetches what a revision needs.
#[derive(Debug)]
pub(crate) struct Preparation {
    identity: Arc<Identity>,
    runtime: String,
    fetcher: Fetcher,
    codes: Arc<CodeStore>,
}

impl Preparation {
    pub(crate) fn new(identity: Arc<Identity>, runtime: &str, code_dir: &Path) -> io::Result<Self> {
        let codes = Arc::new(CodeStore::open(code_dir)?);
        Ok(Self { identity, runtime: runtime.to_owned(), fetcher: Fetcher::new(), codes })
    }

    /// The run document that a wake names, and the code that the document names.
    pub(crate) async fn prepare(
        &self,
        subject: &Subject,
        run: &Source,
        code: Option<&Source>,
    ) -> Result<(RunDocument, Code), PrepareError> {
        let bytes = self.fetcher.get(&run.url, &run.digest, DOCUMENT_BYTES_MAX).await?;
        let document: RunDocument =
            serde_json::from_slice(&bytes).map_err(|_| PrepareError::Document("not readable"))?;
        let identity = &self.identity;
        if document.version != RunDocument::VERSION {
            return Err(PrepareError::Document("of another version"));
        }
        if document.revision != subject.revision
            || document.namespace != identity.namespace
            || document.app != identity.app
        {
            return Err(PrepareError::Document("another revision's"));
        }
        if document.runtime.as_ref() != Some(&self.runtime) {
            return Err(PrepareError::Document("for another runtime"));
        }
        let wanted = document.code.as_ref().ok_or(PrepareError::Document("without code"))?;
        let source = code.filter(|code| code.digest == *wanted);
        let source = source.ok_or(PrepareError::Document("of other code than the wake"))?;
        let code = self.codes.get(&self.fetcher, &source.url, &source.digest).await?;
        Ok((document, code))
    }
}
