//! A Route's OpenAPI document: inline, or a key of a ConfigMap, as text or gzip. Only the named key is taken.

use std::io::Read as _;

use flate2::read::GzDecoder;
use funcatron_crds::{App, OpenApiSource, Reason, Route};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use crate::context::{Context, ReconcileError};
use crate::function::{config_map, missing_map};
use crate::keys::Name;
use crate::status::Refusal;

const FIELD: &str = "spec.openapi.configMapKeyRef";
/// First bytes of gzip (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Unpacked at most: kube-apiserver's own document has 3 MB, and a ConfigMap's 1 MB could hold a thousand times that.
const UNPACKED_BYTES_MAX: u64 = 20_000_000;

/// Changes whenever something does that the Route is made of.
pub(super) fn input(ctx: &Context, route: &Route, app: &App) -> String {
    let map = route.spec.openapi.as_ref().and_then(|openapi| openapi.config_map_key_ref.as_ref());
    let version = map.and_then(|map| {
        let namespace = route.namespace()?;
        ctx.caches.config_maps.get(&namespace, &map.name)?.resource_version()
    });
    format!(
        "{:?} {:?} {:?} {:?} {version:?}",
        route.uid(),
        route.metadata.generation,
        app.uid(),
        app.metadata.generation,
    )
}

/// The document's bytes, `None` for explicit rules. The outer error is worth another try; the inner is the user's.
pub(super) async fn fetch(
    ctx: &Context,
    key: &Name,
    route: &Route,
) -> Result<Result<Option<Vec<u8>>, Refusal>, ReconcileError> {
    let Some(OpenApiSource { inline, config_map_key_ref }) = &route.spec.openapi else { return Ok(Ok(None)) };
    let Some(reference) = config_map_key_ref else {
        return Ok(Ok(inline.clone().map(String::into_bytes)));
    };
    Ok(match config_map(ctx, &key.namespace, &reference.name).await? {
        None => Err(missing_map(FIELD, &key.namespace, &reference.name)),
        Some(map) => of_key(map, &reference.name, &reference.key).and_then(unpacked).map(Some),
    })
}

fn of_key(map: ConfigMap, name: &str, key: &str) -> Result<Vec<u8>, Refusal> {
    let text = map.data.and_then(|mut data| data.remove(key)).map(String::into_bytes);
    let binary = || map.binary_data.and_then(|mut data| data.remove(key)).map(|bytes| bytes.0);
    text.or_else(binary).ok_or_else(|| {
        Refusal::refs(Reason::KeyNotFound, format!("{FIELD}: ConfigMap `{name}` has no key `{key}`"))
    })
}

fn unpacked(bytes: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return Ok(bytes);
    }
    let mut out = vec![];
    let refusal = |problem: String| Refusal::accepted(Reason::OpenApiInvalid, format!("{FIELD}: {problem}"));
    GzDecoder::new(bytes.as_slice())
        .take(UNPACKED_BYTES_MAX + 1)
        .read_to_end(&mut out)
        .map_err(|error| refusal(format!("cannot unpack the gzip: {error}")))?;
    if out.len() as u64 > UNPACKED_BYTES_MAX {
        return Err(refusal(format!("more than {UNPACKED_BYTES_MAX} bytes unpacked")));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use k8s_openapi::ByteString;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(vec![], Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_unpacked_and_anything_else_is_left_as_it_is() {
        assert_eq!(unpacked(gzip(b"openapi: 3.0.3")).unwrap(), b"openapi: 3.0.3");
        assert_eq!(unpacked(b"openapi: 3.0.3".to_vec()).unwrap(), b"openapi: 3.0.3");
    }

    #[test]
    fn a_bomb_and_half_a_gzip_are_refused() {
        let bomb = gzip(&vec![0; usize::try_from(UNPACKED_BYTES_MAX).unwrap() + 1]);
        assert!(unpacked(bomb).unwrap_err().message.contains("unpacked"));
        let half = gzip(b"openapi: 3.0.3, and more")[..12].to_vec();
        assert_eq!(unpacked(half).unwrap_err().reason, Reason::OpenApiInvalid);
    }

    #[test]
    fn a_missing_key_is_named_with_its_map() {
        let map = ConfigMap {
            binary_data: Some([("a.gz".to_owned(), ByteString(vec![1]))].into()),
            ..ConfigMap::default()
        };
        assert_eq!(of_key(map.clone(), "docs", "a.gz").unwrap(), [1]);
        let refusal = of_key(map, "docs", "b").unwrap_err();
        assert!(refusal.message.contains("`docs` has no key `b`"));
    }
}
