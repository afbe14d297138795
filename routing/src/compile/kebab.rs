//! operationId → the name of the Fn that answers it where nobody is named.
//! Never checks whether the result can be a Fn's name.

/// An operationId in kebab case: `listOrders` → `list-orders`, `HTTPServer` → `http-server`,
/// `get_v1Order` → `get-v1-order`. Whatever is neither letter nor digit separates words.
pub fn kebab_case(operation_id: &str) -> String {
    let chars: Vec<char> = operation_id.chars().collect();
    let mut kebab = String::with_capacity(operation_id.len() + 8);
    for (at, char) in chars.iter().enumerate() {
        if !char.is_alphanumeric() {
            separate(&mut kebab);
            continue;
        }
        if char.is_uppercase() && begins_word(&chars, at) {
            separate(&mut kebab);
        }
        kebab.extend(char.to_lowercase());
    }
    kebab.truncate(kebab.trim_end_matches('-').len());
    kebab
}

/// An upper-case letter begins a word behind a lower-case letter or a digit, and as the last of a run of
/// capitals when a word follows: the `S` of `HTTPServer`.
fn begins_word(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| chars.get(before));
    let behind = chars.get(at + 1);
    before.is_some_and(|char| !char.is_uppercase()) || behind.is_some_and(|char| char.is_lowercase())
}

fn separate(kebab: &mut String) {
    if !kebab.is_empty() && !kebab.ends_with('-') {
        kebab.push('-');
    }
}

#[cfg(test)]
mod tests {
    use super::kebab_case;

    #[test]
    fn words_are_told_apart_as_people_read_them() {
        for (operation_id, kebab) in [
            ("listOrders", "list-orders"),
            ("ListOrders", "list-orders"),
            ("list_orders", "list-orders"),
            ("list-orders", "list-orders"),
            ("HTTPServer", "http-server"),
            ("getHTTP", "get-http"),
            ("readCoreV1NamespacedPod", "read-core-v1-namespaced-pod"),
            ("order2Item", "order2-item"),
            ("shop.v1.Orders::List", "shop-v1-orders-list"),
            ("__a__b__", "a-b"),
            ("", ""),
            ("///", ""),
        ] {
            assert_eq!(kebab_case(operation_id), kebab, "{operation_id}");
        }
    }
}
