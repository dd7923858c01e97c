//! PAX extended header records: `LENGTH KEY=VALUE\n`, the length counting all of it.

/// The key prefix of extended attributes, as star, GNU tar and Go write them.
pub(super) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Appends a record.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // A space, an equals sign and a newline; then as many digits as the whole takes.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + digits(length) > length {
        length += 1;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// The records of an extended header; `None` where they are malformed.
pub(super) fn parse(mut records: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut parsed = Vec::new();
    while !records.is_empty() {
        let space = records.iter().take(20).position(|&byte| byte == b' ')?;
        let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
        let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() {
            return None;
        }
        parsed.push((key, value));
        records = &records[length..];
    }
    Some(parsed)
}

/// An attribute's name in a record's key, which must have no equals sign: as GNU tar encodes it.
pub(super) fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = XATTR_PREFIX.to_vec();
    for &byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            byte => key.push(byte),
        }
    }
    key
}

/// The attribute's name of a record's key, if it is one of an attribute.
pub(super) fn xattr_name(key: &[u8]) -> Option<Vec<u8>> {
    let mut rest = key.strip_prefix(XATTR_PREFIX)?;
    let mut name = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match rest {
            [b'%', b'2', b'5', tail @ ..] => (b'%', tail),
            [b'%', b'3', b'D', tail @ ..] => (b'=', tail),
            _ => (byte, tail),
        };
        name.push(byte);
        rest = tail;
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_count_their_own_digits() {
        for (value, expected) in [(1, "8 a=x\n".len() - 1), (92, 98), (93, 99)] {
            let mut records = Vec::new();
            push(&mut records, b"a", &vec![b'x'; value]);
            let space = records.iter().position(|&byte| byte == b' ').unwrap();
            let length: usize = std::str::from_utf8(&records[..space])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(length, records.len());
            assert!(length >= expected, "{length} {expected}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for records in [
            &b"6 a=b"[..],
            b"x a=b\n",
            b"99 a=b\n",
            b"3 a=b\n",
            b"6 =ab\n",
            b"5 ab\n",
            b"0 a=b\n",
            b"18446744073709551616 a=b\n",
            b"-1 a=b\n",
        ] {
            assert_eq!(parse(records), None, "{}", String::from_utf8_lossy(records));
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(
            list in proptest::collection::vec(("[a-zA-Z.%]{1,120}", any::<Vec<u8>>()), 0..4),
        ) {
            let mut records = Vec::new();
            for (key, value) in &list {
                push(&mut records, key.as_bytes(), value);
            }
            let parsed = parse(&records).unwrap();
            let expected: Vec<_> = list.iter().map(|(key, value)| (key.as_bytes(), value.as_slice())).collect();
            prop_assert_eq!(parsed, expected);
        }

        #[test]
        fn attribute_names_round_trip(name in proptest::collection::vec(1u8.., 1..40)) {
            let key = xattr_key(&name);
            prop_assert!(!key.contains(&b'='));
            prop_assert_eq!(xattr_name(&key), Some(name));
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
