//! What stands for the compressors in a build without them.

use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};

use super::Compression;

fn refused<T>(packed: Compression) -> Result<T> {
    let text = format!(
        "this program was built without {}; the cargo feature `compression` has it, or use a file that is not packed",
        packed.name()
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}

pub(super) fn decoder<'a>(packed: Compression, _: impl BufRead + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    refused(packed)
}

pub(super) fn decode_member(packed: Compression, _: &mut impl BufRead, _: &mut Vec<u8>) -> Result<usize> {
    refused(packed)
}

pub(super) fn encode_member(packed: Compression, _: &[u8], _: &mut impl Write) -> Result<()> {
    refused(packed)
}
