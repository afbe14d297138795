//! A call whose body no message carries, from its client to its function and out of the object store again.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use funcatron_crds::Digest;
use serde_json::Value;

use super::{Dev, eventually, request, write};

/// Beyond what any message carries.
const SIZE: usize = 40 << 20;
/// The App takes a little more than that.
const LIMIT: usize = SIZE + 1;

fn manifests() -> String {
    format!(
        "apiVersion: funcatron.dev/v1alpha1\nkind: App\nmetadata: {{name: shop}}\nspec: {{limits: {{bodyBytes: {LIMIT}}}}}\n\
         ---\napiVersion: funcatron.dev/v1alpha1\nkind: Fn\nmetadata: {{name: sum}}\nspec:\n  app: shop\n  \
         async: {{retry: {{maxAttempts: 1}}}}\n  runtime: python\n  source:\n    inline: |\n      import hashlib\n      \
         def handler(event, context):\n          text = event['body'].encode()\n          \
         return {{'statusCode': 200, 'body': f'{{len(text)}} {{hashlib.sha256(text).hexdigest()}}'}}\n---\n\
         apiVersion: funcatron.dev/v1alpha1\nkind: Route\nmetadata: {{name: sum}}\nspec:\n  app: shop\n  rules:\n  \
         - matches: [{{path: {{value: /sum}}}}]\n    backends: [{{fn: sum}}]\n    async: true\n"
    )
}

/// Text, so that the function sees what was sent, and not the same piece again and again.
fn body(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + u8::try_from((at / 1021 + at % 26) % 26).unwrap()).collect()
}

/// Posts a body, in chunks where its length is not to be said; answers the status and the body.
fn post(address: &str, body: &[u8], says_length: bool) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = if says_length {
        format!("Content-Length: {}", body.len())
    } else {
        "Transfer-Encoding: chunked".into()
    };
    write!(stream, "POST /sum HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{length}\r\n\r\n").unwrap();
    let written = if says_length {
        stream.write_all(body)
    } else {
        let chunk = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        let mut chunks = body.chunks(1 << 20).map(chunk).chain([b"0\r\n\r\n".to_vec()]);
        chunks.try_for_each(|chunk| stream.write_all(&chunk))
    };
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{written:?} {read:?} {text}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn get(url: &str) -> (u16, String) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let answer = request(address, "GET", &format!("/{path}")).unwrap();
    (answer.status, answer.body)
}

/// Whole objects in a temporary folder of `dev`.
fn objects(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] })
        .filter(|path| path.components().any(|part| part.as_os_str() == "objects"))
        .collect()
}

/// A body of 40 MiB is accepted, kept, given to its function and taken away; one beyond the App's limit is not.
pub(crate) fn a_body_that_no_message_carries_comes_whole(adjust: impl FnOnce(&mut Command) -> &mut Command) {
    let (folder, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(folder.path(), "fn.yaml", &manifests());
    let dev = Dev::start_as(folder.path(), |command| adjust(command).env("TMPDIR", temporary.path()));
    for says_length in [true, false] {
        let body = body(SIZE);
        let (status, accepted) = post(&dev.public(), &body, says_length);
        assert_eq!(status, 202, "{accepted}");
        let accepted: Value = serde_json::from_str(&accepted).unwrap();
        let location = accepted["location"].as_str().unwrap();
        let call = eventually("the call is over", || {
            let (status, text) = get(location);
            let call: Value = serde_json::from_str(&text).ok()?;
            (status == 200 && !["queued", "running"].contains(&call["status"].as_str()?)).then_some(call)
        });
        assert_eq!(call["status"], "success", "{call}");
        let digest = Digest::of(&body);
        assert_eq!(get(&format!("{location}/result")).1, format!("{SIZE} {}", digest.hex()));
        let request = &call["request"];
        assert_eq!((&request["bodyBytes"], &request["digest"]), (&SIZE.into(), &digest.as_str().into()));
        eventually("its body is gone", || objects(temporary.path()).is_empty().then_some(()));
    }
    let (status, answer) = post(&dev.public(), &body(LIMIT + 1), true);
    assert_eq!(status, 413, "{answer}");
    let (status, answer) = post(&dev.public(), &body(LIMIT + 1), false);
    assert_eq!(status, 413, "{answer}");
    eventually("nothing is left of it", || objects(temporary.path()).is_empty().then_some(()));
}
