//! A name server whose answers a test sets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;

/// What it says to questions about one name and type.
#[derive(Clone)]
pub enum Say {
    /// These, for so many seconds.
    Records(u32, Vec<RData>),
    NoSuchName,
    /// It cannot say.
    Failure,
    /// Nothing at all.
    Nothing,
}

pub struct NameServer {
    pub address: SocketAddr,
    says: Arc<Mutex<HashMap<(String, RecordType), Say>>>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let says = Arc::<Mutex<HashMap<(String, RecordType), Say>>>::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (known, count) = (says.clone(), asked.clone());
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&question, &known.lock()) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        NameServer { address, says, asked }
    }

    pub fn say(&self, name: &str, kind: RecordType, say: Say) {
        self.says.lock().insert((name.to_owned(), kind), say);
    }

    /// The addresses of a name; of a family without any it has none.
    pub fn set_addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        for (kind, is_own) in
            [(RecordType::A, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (RecordType::AAAA, IpAddr::is_ipv6)]
        {
            let own = addresses.iter().copied().filter(is_own).map(RData::from).collect();
            self.say(name, kind, Say::Records(ttl, own));
        }
    }

    /// The targets of a service: priority, weight, port and host.
    pub fn set_targets(&self, name: &str, ttl: u32, targets: &[(u16, u16, u16, &str)]) {
        let target = |(priority, weight, port, host): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, *weight, *port, Name::from_str(&format!("{host}.")).unwrap()))
        };
        self.say(name, RecordType::SRV, Say::Records(ttl, targets.iter().map(target).collect()));
    }

    /// How often it was asked so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(question: &Message, known: &HashMap<(String, RecordType), Say>) -> Option<Vec<u8>> {
    let query = question.queries.first()?.clone();
    let name = query.name().to_utf8().trim_end_matches('.').to_ascii_lowercase();
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    (answer.additionals, answer.authorities) = (Vec::new(), Vec::new());
    let code = match known.get(&(name, query.query_type())).unwrap_or(&Say::NoSuchName) {
        Say::Records(ttl, data) => {
            let record = |data: &RData| Record::from_rdata(query.name().clone(), *ttl, data.clone());
            answer.answers = data.iter().map(record).collect();
            ResponseCode::NoError
        }
        Say::NoSuchName => ResponseCode::NXDomain,
        Say::Failure => ResponseCode::ServFail,
        Say::Nothing => return None,
    };
    answer.metadata.response_code = code;
    Some(answer.to_vec().unwrap())
}
