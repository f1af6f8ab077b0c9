//! An input as a list of steps: what targets read numbers and bytes from until it is used up.

/// What is left of an input.
#[derive(Clone, Debug)]
pub(crate) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn half(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn word(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Returns an address: most are below 64 KiB times 16, some are anywhere.
    pub(crate) fn address(&mut self) -> Option<u64> {
        let [low, middle, high] = self.array()?;
        let place = u64::from(low) | u64::from(middle) << 8;
        Some(match high {
            0..0x80 => place | u64::from(high) << 16,
            // Just below 4 GiB, below the end of all addresses, and in between.
            0x80..0x90 => (1 << 32) - place,
            0x90..0xa0 => u64::MAX - place,
            _ => place << (high & 0x3f),
        })
    }

    /// Returns a length: a number of 16 bits, shifted to the left by at most 15.
    pub(crate) fn length(&mut self) -> Option<u32> {
        let number = u32::from(self.half()?);
        Some(number << (self.byte()? & 0xf))
    }

    /// Returns bytes after their number, or what there is of them.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(bytes)
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
