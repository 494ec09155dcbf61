//! The shop's 10,000 users, made up: names and addresses from short lists, homes uniform over Bengaluru.

use std::fmt;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Users in `pizzashop.users`, ids 1 to this.
const USERS: u64 = 10_000;
/// Makes the committed users; another seed makes another town.
const SEED: u64 = 560_001;

/// A row of `pizzashop.users` without its time stamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: u64,
    pub first_name: String,
    pub last_name: String,
    /// Not unique.
    pub email: String,
    pub residence: String,
    pub lat: Degrees,
    pub lon: Degrees,
}

/// 10⁻⁸ degrees north or east: the unscaled number of a DECIMAL(10,8). Printed with its eight digits: `13.01002590`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Degrees(pub u64);

const DEGREE: u64 = 100_000_000;

/// Outline of Bengaluru, (lat, lon), counter-clockwise from the north-west; the last corner joins the first.
const OUTLINE: [(f64, f64); 13] = [
    (13.068435398495534, 77.49105088969723),
    (12.990166178540756, 77.47525804301755),
    (12.911872285691553, 77.48143785258786),
    (12.875058978354334, 77.5164567734863),
    (12.8596627183304, 77.60778062602536),
    (12.901163518471398, 77.7087175156738),
    (12.960056055140743, 77.72245042583005),
    (12.984813534241871, 77.75334947368161),
    (13.013582640465126, 77.7251970078613),
    (13.060408925722843, 77.64760606547848),
    (13.08314992060076, 77.65859239360348),
    (13.102879378644063, 77.61258714458005),
    (13.091844452767342, 77.55559556743161),
];

/// A box around the outline.
const LATITUDES: std::ops::Range<f64> = 12.85..13.11;
const LONGITUDES: std::ops::Range<f64> = 77.47..77.76;

/// The home of user 1, which examples and tests of distances rely on.
const FIRST_HOME: (Degrees, Degrees) = (Degrees(1_301_002_590), Degrees(7_762_104_745));

const FIRST_NAMES: [&str; 48] = [
    "Aarav", "Aditi", "Ajay", "Akshara", "Amit", "Ananya", "Anil", "Anjali", "Arjun", "Asha", "Bhavana", "Chandan", "Deepa", "Devika",
    "Dinesh", "Farhan", "Gauri", "Girish", "Harini", "Imran", "Indira", "Ishaan", "Jaya", "Karthik", "Kavya", "Kiran", "Lakshmi", "Leela",
    "Madhu", "Manoj", "Meera", "Mohan", "Nandini", "Naveen", "Nisha", "Pooja", "Prakash", "Priya", "Rahul", "Ravi", "Revathi", "Rohan",
    "Sanjana", "Shruti", "Suresh", "Tara", "Varun", "Vidya",
];

const LAST_NAMES: [&str; 36] = [
    "Acharya", "Bhat", "Chopra", "Das", "Desai", "Gowda", "Gupta", "Hegde", "Iyer", "Jain", "Joshi", "Kamath", "Khan", "Kulkarni", "Kumar",
    "Menon", "Mishra", "Murthy", "Nair", "Naidu", "Pai", "Patel", "Patil", "Pillai", "Prasad", "Rao", "Reddy", "Saxena", "Sharma",
    "Shenoy", "Shetty", "Singh", "Thomas", "Varghese", "Verma", "Yadav",
];

const STREETS: [&str; 12] = [
    "1st Cross",
    "2nd Main Road",
    "5th Block",
    "Church Street",
    "Garden Road",
    "Hill View Road",
    "Lake Road",
    "Market Street",
    "Museum Road",
    "Old Mill Lane",
    "Station Road",
    "Temple Street",
];

const QUARTERS: [&str; 16] = [
    "Banashankari",
    "Basavanagudi",
    "Bellandur",
    "Domlur",
    "Hebbal",
    "HSR Layout",
    "Indiranagar",
    "Jayanagar",
    "JP Nagar",
    "Koramangala",
    "Malleshwaram",
    "Marathahalli",
    "Rajajinagar",
    "Ulsoor",
    "Vijayanagar",
    "Yelahanka",
];

/// The users of the shop, ids 1 to 10,000 in order; every call makes the same ones.
pub fn users() -> Vec<User> {
    let mut rng = StdRng::seed_from_u64(SEED);
    (1..=USERS).map(|id| user(id, &mut rng)).collect()
}

fn user(id: u64, rng: &mut StdRng) -> User {
    let mut one_of = |list: &[&'static str]| *list.choose(rng).expect("the lists are not empty");
    let (first_name, last_name) = (one_of(&FIRST_NAMES), one_of(&LAST_NAMES));
    let (street, quarter) = (one_of(&STREETS), one_of(&QUARTERS));
    let email = format!("{}.{}{}@example.com", first_name.to_lowercase(), last_name.to_lowercase(), rng.random_range(1..=99));
    let residence = format!("{}, {street}, {quarter}, Bengaluru {}", rng.random_range(1..=240), rng.random_range(560_001..=560_110));
    let (lat, lon) = if id == 1 { FIRST_HOME } else { home(rng) };
    User { id, first_name: first_name.into(), last_name: last_name.into(), email, residence, lat, lon }
}

/// A point uniform inside the outline: points of the box are drawn until one is inside.
fn home(rng: &mut StdRng) -> (Degrees, Degrees) {
    loop {
        let point = (Degrees::nearest(rng.random_range(LATITUDES)), Degrees::nearest(rng.random_range(LONGITUDES)));
        if is_inside(point.0.as_f64(), point.1.as_f64()) {
            return point;
        }
    }
}

/// Whether a ray from the point to the east crosses the outline an odd number of times.
fn is_inside(lat: f64, lon: f64) -> bool {
    let next = OUTLINE.iter().cycle().skip(1);
    let crossings = OUTLINE.iter().zip(next).filter(|&(&(lat1, lon1), &(lat2, lon2))| {
        (lat1 > lat) != (lat2 > lat) && lon < lon1 + (lat - lat1) / (lat2 - lat1) * (lon2 - lon1)
    });
    crossings.count() % 2 == 1
}

// === impl Degrees ===

impl Degrees {
    fn nearest(degrees: f64) -> Self {
        Self((degrees * DEGREE as f64).round() as u64)
    }

    fn as_f64(self) -> f64 {
        self.0 as f64 / DEGREE as f64
    }
}

impl fmt::Display for Degrees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08}", self.0 / DEGREE, self.0 % DEGREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ten_thousand_users_live_inside_the_outline() {
        let users = users();
        assert_eq!(users.len(), 10_000);
        assert!(users.iter().zip(1..).all(|(user, id)| user.id == id));
        assert!(users.iter().all(|u| is_inside(u.lat.as_f64(), u.lon.as_f64())));
        assert!(users.iter().all(|u| u.residence.contains(", ") && u.email.ends_with("@example.com")));
        let emails: HashSet<&str> = users.iter().map(|u| u.email.as_str()).collect();
        assert!(emails.len() < users.len(), "e-mail addresses are not unique");
        assert_eq!(super::users(), users, "the same users every time");
    }

    #[test]
    fn user_1_is_the_one_of_the_test_vectors() {
        let users = users();
        assert_eq!((users[0].lat.to_string().as_str(), users[0].lon.to_string().as_str()), ("13.01002590", "77.62104745"));
    }

    /// Area of the outline 570.7 km² and the share of homes north of the middle, both against the polygon's own figures.
    #[test]
    fn homes_are_uniform() {
        let (area, _) = halves();
        // One degree is 110.6 km north and 111.32 km × cos(latitude) east here.
        let square_km = area * 110.63 * 111.32 * 12.98_f64.to_radians().cos();
        assert!((square_km - 570.7).abs() < 3.0, "{square_km} km²");

        let users = users();
        let north = users.iter().filter(|u| u.lat.as_f64() > MIDDLE).count() as f64 / users.len() as f64;
        let (area, north_area) = halves();
        assert!((north - north_area / area).abs() < 0.02, "{north} of the homes on {} of the land", north_area / area);
    }

    const MIDDLE: f64 = 12.98;

    /// Area of the outline in square degrees, and of its part north of the middle, by counting a grid.
    fn halves() -> (f64, f64) {
        const STEP: f64 = 0.001;
        let (mut all, mut north) = (0.0, 0.0);
        for i in 0..260 {
            for j in 0..290 {
                let (lat, lon) = (LATITUDES.start + (f64::from(i) + 0.5) * STEP, LONGITUDES.start + (f64::from(j) + 0.5) * STEP);
                if is_inside(lat, lon) {
                    all += STEP * STEP;
                    north += if lat > MIDDLE { STEP * STEP } else { 0.0 };
                }
            }
        }
        (all, north)
    }
}
