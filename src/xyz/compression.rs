//! Compressed containers: recognised by their first bytes when read, by the file's extension when written.

use std::ffi::OsStr;
use std::io::{BufRead, Read, Result, Write};
use std::path::Path;

/// How a file's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    /// By the magic bytes at the start of a stream.
    pub(crate) fn of_content(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // `BZh`, level, then a block's or the empty stream's marker: text may start with `BZh`.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// By the extension of a file name.
    pub(crate) fn of_name(path: &Path) -> Self {
        match path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase).as_deref() {
            Some("gz" | "gzip") => Self::Gzip,
            Some("bz2") => Self::Bzip2,
            Some("xz") => Self::Xz,
            Some("zst" | "zstd") => Self::Zstd,
            _ => Self::None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Wraps a stream so that it yields the unpacked bytes of all its members.
    pub(crate) fn decoder<'a>(self, input: impl BufRead + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(input)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        })
    }

    /// Unpacks the first member of `input`, leaving `input` right behind it.
    pub(crate) fn decode_member(self, input: &mut (impl BufRead + Send)) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::None => input.read_to_end(&mut out)?,
            Self::Gzip => flate2::bufread::GzDecoder::new(input).read_to_end(&mut out)?,
            Self::Bzip2 => bzip2::bufread::BzDecoder::new(input).read_to_end(&mut out)?,
            Self::Xz => liblzma::bufread::XzDecoder::new(input).read_to_end(&mut out)?,
            Self::Zstd => zstd::stream::read::Decoder::with_buffer(input)?.single_frame().read_to_end(&mut out)?,
        };
        Ok(out)
    }

    /// Packs `text` into one member and appends it to `out`. The same text always gives the same bytes.
    pub(crate) fn encode_member(self, text: &[u8], out: &mut impl Write) -> Result<()> {
        match self {
            Self::None => out.write_all(text)?,
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(text)?;
                encoder.finish()?;
            }
            Self::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(out, bzip2::Compression::best());
                encoder.write_all(text)?;
                encoder.finish()?;
            }
            Self::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(out, 6);
                encoder.write_all(text)?;
                encoder.finish()?;
            }
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
                encoder.include_checksum(true)?;
                encoder.write_all(text)?;
                encoder.finish()?;
            }
        }
        Ok(())
    }
}
