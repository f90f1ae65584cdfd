//! Records and contents as they stand in the file: each says how long it is and carries a checksum, so that it can be found
//! and trusted without the tables around it. What was written last has the higher number.

use sha2::{Digest, Sha256};

use super::Record;

const CHECKSUM: &str = r#"{"crc":""#;
const LENGTH: &str = r#"","len":""#;
const NUMBER: &str = r#"","seq":"#;

/// Bytes of the part that has the same length in each record.
const PREFIX: usize = CHECKSUM.len() + 8 + LENGTH.len() + 8 + NUMBER.len();

/// A record as text: JSON, whose first field is the CRC-32 of what follows it and whose second is the length of the whole,
/// both 8 hexadecimal digits.
pub fn seal(record: &Record, seq: u64) -> String {
    let json = serde_json::to_string(record).expect("plain data");
    let rest = format!("{seq},{}", &json[1..]);
    let tail = format!("{LENGTH}{:08x}{NUMBER}{rest}", PREFIX + rest.len());
    format!("{CHECKSUM}{:08x}{tail}", crc32fast::hash(tail.as_bytes()))
}

/// The record of a text, and its number; none where it is damaged.
pub fn unseal(text: &[u8]) -> Option<(u64, Record)> {
    let (length, checksum) = head(text)?;
    let tail = text.get(CHECKSUM.len() + 8..)?;
    if length != text.len() || checksum != crc32fast::hash(tail) {
        return None;
    }
    let digits = text[PREFIX..].split(|byte| *byte == b',').next()?;
    let seq = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((seq, serde_json::from_slice(text).ok()?))
}

/// Whether a sealed record may begin here: its length. Quotes inside of a record are escaped, so that none seems to begin in
/// another.
pub fn record_at(bytes: &[u8]) -> Option<usize> {
    head(bytes).map(|(length, _)| length)
}

/// Length and checksum.
fn head(bytes: &[u8]) -> Option<(usize, u32)> {
    let hex = |from: usize| {
        let digits = std::str::from_utf8(bytes.get(from..from + 8)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let after = CHECKSUM.len() + 8;
    if !bytes.starts_with(CHECKSUM.as_bytes()) || !bytes.get(after..)?.starts_with(LENGTH.as_bytes()) {
        return None;
    }
    Some((hex(after + LENGTH.len())? as usize, hex(CHECKSUM.len())?)).filter(|(length, _)| *length > PREFIX)
}

const CONTENT: &[u8; 8] = b"\0RVRYIN\0";
const MASK: usize = 8;
pub const CONTENT_HEAD: usize = CONTENT.len() + 8 + MASK + 32;

/// A content as bytes: a mark, the length of the whole (8 bytes, big-endian), a random mask, SHA-256, and the content under
/// the mask: so that no file that a client sends can pass for a record or for another content.
pub fn seal_content(content: &[u8]) -> Vec<u8> {
    let length = (CONTENT_HEAD + content.len()) as u64;
    let random = uuid::Uuid::new_v4();
    let mask: [u8; MASK] = random.as_bytes()[8..].try_into().expect("16 bytes");
    let mut sealed = Vec::with_capacity(CONTENT_HEAD + content.len());
    sealed.extend([&CONTENT[..], &length.to_be_bytes(), &mask, &Sha256::digest(content)].concat());
    sealed.extend(content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    sealed
}

/// The SHA-256 in hexadecimal, and the content; none where it is damaged.
pub fn unseal_content(mut sealed: Vec<u8>) -> Option<(String, Vec<u8>)> {
    if content_at(&sealed)? != sealed.len() {
        return None;
    }
    let mask: [u8; MASK] = sealed[CONTENT.len() + 8..][..MASK].try_into().expect("as long");
    let stated = hex(&sealed[CONTENT_HEAD - 32..CONTENT_HEAD]);
    let mut content = sealed.split_off(CONTENT_HEAD);
    content.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    (stated == sha256(&content)).then_some((stated, content))
}

/// The SHA-256 in hexadecimal that the head of a sealed content states.
pub fn stated_sha256(head: &[u8]) -> Option<String> {
    content_at(head)?;
    head.get(CONTENT_HEAD - 32..CONTENT_HEAD).map(hex)
}

/// Whether a sealed content may begin here: its length.
pub fn content_at(bytes: &[u8]) -> Option<usize> {
    let length = bytes.strip_prefix(&CONTENT[..])?.first_chunk()?;
    usize::try_from(u64::from_be_bytes(*length)).ok().filter(|length| *length >= CONTENT_HEAD)
}

/// SHA-256 in hexadecimal, as [`Content`](super::Content) has it.
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
