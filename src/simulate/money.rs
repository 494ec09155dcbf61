//! Amounts of rupees, exact.

use std::fmt;

/// Paise: hundredths of a rupee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(u32);

impl Money {
    pub const fn rupees(rupees: u32) -> Self {
        Self(rupees * 100)
    }

    pub const fn paise(paise: u32) -> Self {
        Self(paise)
    }

    pub const fn as_paise(self) -> u32 {
        self.0
    }

    /// The text a JSON number has in the shop's records: at least one fraction digit (`45.0`, `45.5`, `45.25`).
    pub fn json(self) -> String {
        if self.0.is_multiple_of(100) { format!("{self}.0") } else { self.to_string() }
    }
}

/// The shortest exact text, as MySQL and the rows of our tables have it: `45`, `45.5`, `45.25`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rupees, paise) = (self.0 / 100, self.0 % 100);
        match paise {
            0 => write!(f, "{rupees}"),
            _ if paise % 10 == 0 => write!(f, "{rupees}.{}", paise / 10),
            _ => write!(f, "{rupees}.{paise:02}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_their_shortest_exact_text() {
        for (paise, plain, json) in
            [(4500, "45", "45.0"), (4550, "45.5", "45.5"), (4505, "45.05", "45.05"), (5, "0.05", "0.05"), (0, "0", "0.0")]
        {
            assert_eq!((Money::paise(paise).to_string().as_str(), Money::paise(paise).json().as_str()), (plain, json));
        }
        assert_eq!(Money::rupees(709), Money::paise(70_900));
    }
}
