//! An App's broker user and the Secret with its URL. The Secret is written and never read: the status says which
//! key it was made with.

use funcatron_crds::App;
use kube::ResourceExt;

use crate::apply::apply;
use crate::context::{Context, ReconcileError};
use crate::objects::secret;

/// Writes the Secret unless it was written with this key; whether it was written now. The password follows from the
/// key, so this needs no broker.
pub(super) async fn ensure_secret(ctx: &Context, app: &App) -> Result<bool, ReconcileError> {
    let written_with = app.status.as_ref().and_then(|status| status.credentials_key_id.as_deref());
    if written_with == Some(ctx.config.signing_key.key_id().as_str()) {
        return Ok(false);
    }
    let names = ctx.names(&app.namespace().unwrap_or_default(), &app.name_any())?;
    let password = ctx.config.signing_key.broker_password(names.user());
    let url = ctx.config.runner_broker.url(names.user(), &password);
    apply(&ctx.client, &secret::build(app, url)).await?;
    Ok(true)
}

/// Makes the user stand with its permissions. A new key means a new password.
pub(super) async fn ensure_user(ctx: &Context, app: &App, new_key: bool) -> Result<(), ReconcileError> {
    let names = ctx.names(&app.namespace().unwrap_or_default(), &app.name_any())?;
    let permissions = names.permissions();
    if !new_key && ctx.management.has_user(names.user(), &permissions).await? {
        return Ok(());
    }
    let password = ctx.config.signing_key.broker_password(names.user());
    Ok(ctx.management.put_user(names.user(), &password, &permissions).await?)
}
