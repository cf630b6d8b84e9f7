//! The compressors.

use std::io::{BufRead, Read, Result, Write};

use super::Compression;

impl Compression {
    /// Wraps a stream so that it yields the unpacked bytes of all its members. Zeros behind them, which tapes and block
    /// devices leave, are passed over as gzip and bzip2 do; xz pads with them too, by fours, and zstd never.
    pub(crate) fn decoder<'a>(self, input: impl BufRead + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(Members::Between(input, flate2::bufread::GzDecoder::new)),
            Self::Bzip2 => Box::new(Members::Between(input, bzip2::bufread::BzDecoder::new)),
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

/// Decoder of a single member, which leaves its input right behind it.
trait Member<R>: Read {
    fn into_inner(self) -> R;
}

impl<R: BufRead> Member<R> for flate2::bufread::GzDecoder<R> {
    fn into_inner(self) -> R {
        self.into_inner()
    }
}

impl<R: BufRead> Member<R> for bzip2::bufread::BzDecoder<R> {
    fn into_inner(self) -> R {
        self.into_inner()
    }
}

/// Members one after another, with zeros between and behind them.
enum Members<R, M> {
    Between(R, fn(R) -> M),
    Inside(M, fn(R) -> M),
    /// While one state is turned into the other, and after an error.
    Nowhere,
}

impl<R: BufRead, M: Member<R>> Read for Members<R, M> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(self, Self::Nowhere) {
                Self::Nowhere => return Ok(0),
                Self::Between(mut input, decoder) => {
                    if skip_zeros(&mut input)? {
                        return Ok(0);
                    }
                    *self = Self::Inside(decoder(input), decoder);
                }
                Self::Inside(mut member, decoder) => match member.read(out) {
                    Ok(0) => *self = Self::Between(member.into_inner(), decoder),
                    outcome => {
                        *self = Self::Inside(member, decoder);
                        return outcome;
                    }
                },
            }
        }
    }
}

/// Passes over zeros; whether the input ends with them.
fn skip_zeros(input: &mut impl BufRead) -> Result<bool> {
    loop {
        let block = match input.fill_buf() {
            Ok(block) => block,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let Some(zeros) = block.iter().position(|&c| c != 0) else {
            let n = block.len();
            if n == 0 {
                return Ok(true);
            }
            input.consume(n);
            continue;
        };
        input.consume(zeros);
        return Ok(false);
    }
}
