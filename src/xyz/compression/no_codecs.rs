//! What stands for the compressors in a build without them.

use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};

use super::Compression;

impl Compression {
    /// The stream, where it is not packed.
    pub(crate) fn decoder<'a>(self, input: impl BufRead + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
        self.check()?;
        Ok(Box::new(input))
    }

    /// All of `input`, where it is not packed.
    pub(crate) fn decode_member(self, input: &mut (impl BufRead + Send)) -> Result<Vec<u8>> {
        self.check()?;
        let mut out = Vec::new();
        input.read_to_end(&mut out)?;
        Ok(out)
    }

    /// Appends `text` to `out`, where it is not to be packed.
    pub(crate) fn encode_member(self, text: &[u8], out: &mut impl Write) -> Result<()> {
        self.check()?;
        out.write_all(text)
    }

    fn check(self) -> Result<()> {
        if self == Self::None {
            return Ok(());
        }
        let text = format!(
            "this program was built without {}; the cargo feature `compression` has it, or use a file that is not packed",
            self.name()
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }
}
