//! PyTorch's files of tensors: a zip archive with a pickle, and the bytes of each storage beside it.
//!
//! The pickle is data to this reader: it names classes, and none of them is ever called. It reads what `torch.save`
//! writes (protocol 2). candle's reader is not used: damaged files make it panic, nested ones overflow the stack.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};

use crate::model::weights::Array;

type Result<T> = std::result::Result<T, String>;
type Id = usize;

/// An object of a pickle. Objects refer to each other by index, so that neither shared nor nested ones need recursion.
#[derive(Debug)]
enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Class(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Call { class: Id, arguments: Id },
    Persistent(Id),
}

/// The objects of a pickle.
#[derive(Debug)]
struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

struct Reader<'a> {
    bytes: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks that are still open.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk().ok_or("the pickle ends early")?;
        self.bytes = rest;
        Ok(*head)
    }

    fn text(&mut self, n: usize) -> Result<String> {
        let (head, rest) = self.bytes.split_at_checked(n).ok_or("the pickle ends early")?;
        self.bytes = rest;
        Ok(String::from_utf8_lossy(head).into_owned())
    }

    fn line(&mut self) -> Result<String> {
        let n = self.bytes.iter().position(|&b| b == b'\n').ok_or("the pickle ends early")?;
        let line = self.text(n)?;
        self.bytes = &self.bytes[1..];
        Ok(line)
    }

    fn push(&mut self, object: Object) {
        self.stack.push(self.objects.len());
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<Id> {
        if self.marks.last() == Some(&self.stack.len()) {
            return Err("the pickle takes more objects than it has".into());
        }
        self.stack.pop().ok_or_else(|| "the pickle takes more objects than it has".into())
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| "the pickle takes more objects than it has".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let height = self.marks.pop().ok_or("the pickle closes a group that it did not open")?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<Id>>>()?;
        items.reverse();
        self.push(Object::Tuple(items));
        Ok(())
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match &mut self.objects[list] {
            Object::List(list) => list.append(&mut items),
            _ => return Err("the pickle appends to something that is no list".into()),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.objects[dict] {
            Object::Dict(entries) if rest.is_empty() => entries.extend(pairs.iter().map(|&[k, v]| (k, v))),
            // Attributes of optimisers and the like: nothing that is read here.
            Object::Call { .. } => {}
            _ => return Err("the pickle sets items of something that is no dictionary".into()),
        }
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let is_dict = matches!(&self.objects[class], Object::Class(name)
            if name == "collections.OrderedDict" || name == "collections.defaultdict");
        self.push(if is_dict { Object::Dict(Vec::new()) } else { Object::Call { class, arguments } });
        Ok(())
    }

    /// Reads one instruction; `false` after the last.
    fn step(&mut self) -> Result<bool> {
        let [code] = self.take()?;
        match code {
            // PROTO
            0x80 => {
                self.take::<1>()?;
            }
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let n = i32::from_le_bytes(self.take()?);
                self.push(Object::Int(n.into()));
            }
            b'K' => {
                let [n] = self.take()?;
                self.push(Object::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.take()?);
                self.push(Object::Int(n.into()));
            }
            0x8a => self.long()?,
            // BINFLOAT, BINUNICODE, GLOBAL
            b'G' => {
                let x = f64::from_be_bytes(self.take()?);
                self.push(Object::Float(x));
            }
            b'X' => {
                let n = u32::from_le_bytes(self.take()?);
                let text = self.text(n as usize)?;
                self.push(Object::Text(text));
            }
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Object::Class(name));
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => {
                let [k] = self.take()?;
                self.memo.insert(k.into(), self.top()?);
            }
            b'r' => {
                let k = u32::from_le_bytes(self.take()?);
                self.memo.insert(k, self.top()?);
            }
            b'h' => {
                let [k] = self.take()?;
                self.recall(k.into())?;
            }
            b'j' => {
                let k = u32::from_le_bytes(self.take()?);
                self.recall(k)?;
            }
            // MARK, POP, POP_MARK
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Object::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Object::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.insert(&items)?;
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => self.call()?,
            // BUILD: attributes, such as the metadata of a state dict.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Persistent(id));
            }
            // STOP
            b'.' => return Ok(false),
            _ => return Err(format!("its pickle holds instruction {code:#04x}, which torch.save does not write")),
        }
        Ok(true)
    }

    fn long(&mut self) -> Result<()> {
        let [n] = self.take()?;
        let (head, rest) = self.bytes.split_at_checked(n.into()).ok_or("the pickle ends early")?;
        let negative = head.last().is_some_and(|b| b & 0x80 != 0);
        let mut bytes = [if negative { 0xff } else { 0 }; 8];
        bytes.get_mut(..head.len()).ok_or("the pickle holds a number of more than 64 bits")?.copy_from_slice(head);
        self.bytes = rest;
        self.push(Object::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn recall(&mut self, k: u32) -> Result<()> {
        let id = self.memo.get(&k).ok_or("the pickle recalls an object that it did not store")?;
        self.stack.push(*id);
        Ok(())
    }
}

const NOT_UNDERSTOOD: &str = "is described in an unknown way: its pickle is damaged, or another PyTorch wrote it";

impl Pickle {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader =
            Reader { bytes, objects: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        while reader.step()? {}
        let root = reader.pop()?;
        Ok(Pickle { objects: reader.objects, root })
    }

    fn text(&self, id: Id) -> Option<&str> {
        match &self.objects[id] {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match self.objects[id] {
            Object::Int(n) => usize::try_from(n).ok(),
            _ => None,
        }
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match &self.objects[id] {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn class(&self, id: Id) -> Option<&str> {
        match &self.objects[id] {
            Object::Class(name) => Some(name),
            _ => None,
        }
    }

    fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match &self.objects[id] {
            Object::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        self.dict(dict)?.iter().find(|&&(k, _)| self.text(k) == Some(key)).map(|&(_, v)| v)
    }

    /// What an object is, for messages.
    fn describe(&self, id: Id) -> String {
        match &self.objects[id] {
            Object::Call { class, .. } => {
                format!("a pickled object of class {}", self.class(*class).unwrap_or("that has no name"))
            }
            Object::List(_) | Object::Tuple(_) => "a list".into(),
            _ => "a value".into(),
        }
    }

    /// Plain data as JSON; `None` for anything else. `budget` limits the work: objects may contain one another often.
    fn to_json(&self, id: Id, depth: usize, budget: &mut usize) -> Option<serde_json::Value> {
        use serde_json::Value;
        const MAX_DEPTH: usize = 16;
        *budget = budget.checked_sub(1)?;
        if depth > MAX_DEPTH {
            return None;
        }
        let mut inner = |id: Id| self.to_json(id, depth + 1, budget);
        Some(match &self.objects[id] {
            Object::None => Value::Null,
            Object::Bool(b) => (*b).into(),
            Object::Int(n) => (*n).into(),
            Object::Float(x) => serde_json::Number::from_f64(*x)?.into(),
            Object::Text(text) => text.as_str().into(),
            Object::List(items) | Object::Tuple(items) => {
                items.iter().map(|&item| inner(item)).collect::<Option<Vec<_>>>()?.into()
            }
            Object::Dict(entries) => Value::Object(
                entries
                    .iter()
                    .map(|&(k, v)| Some((self.text(k)?.to_string(), inner(v)?)))
                    .collect::<Option<serde_json::Map<_, _>>>()?,
            ),
            Object::Class(_) | Object::Call { .. } | Object::Persistent(_) => return None,
        })
    }

    /// The tensor that an object stands for; `None` if it stands for something else.
    fn tensor(&self, id: Id) -> Option<Result<View<'_>>> {
        let mut id = id;
        // A parameter wraps a tensor, and so does a tensor of a subclass.
        for _ in 0..4 {
            let Object::Call { class, arguments } = self.objects[id] else { return None };
            let arguments = self.tuple(arguments)?;
            match self.class(class)? {
                "torch._utils._rebuild_tensor_v2" => {
                    return Some(self.view(arguments).ok_or_else(|| NOT_UNDERSTOOD.into()));
                }
                "torch._utils._rebuild_parameter" => id = *arguments.first()?,
                "torch._tensor._rebuild_from_type_v2" => {
                    let (&function, &arguments) = (arguments.first()?, arguments.get(2)?);
                    return (self.class(function)? == "torch._utils._rebuild_tensor_v2").then(|| {
                        self.tuple(arguments).and_then(|a| self.view(a)).ok_or_else(|| NOT_UNDERSTOOD.into())
                    });
                }
                _ => return None,
            }
        }
        None
    }

    /// From storage, offset, shape, strides.
    fn view(&self, arguments: &[Id]) -> Option<View<'_>> {
        let &[storage, offset, shape, strides, ..] = arguments else { return None };
        let Object::Persistent(storage) = self.objects[storage] else { return None };
        let &[_, class, key, ..] = self.tuple(storage)? else { return None };
        let sizes = |id: Id| self.tuple(id)?.iter().map(|&n| self.size(n)).collect::<Option<Vec<usize>>>();
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        (shape.len() == strides.len()).then_some(())?;
        Some(View { storage: self.text(key)?, class: self.class(class)?, offset: self.size(offset)?, shape, strides })
    }
}

/// A tensor: a possibly transposed or partial view of a storage. Offset and strides count elements.
struct View<'a> {
    storage: &'a str,
    class: &'a str,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Tensors may repeat an element of their storage, so that the file does not bound their size; this does.
const MAX_ELEMENTS_BEYOND_FILE: usize = 1 << 20;

/// Reads one number from exactly its bytes.
type Decode = fn(&[u8]) -> Option<f64>;

impl View<'_> {
    fn read(&self, bytes: &[u8], budget: &mut usize) -> Result<Array> {
        let (width, decode): (usize, Decode) = match self.class {
            "torch.DoubleStorage" => (8, |b| Some(f64::from_le_bytes(b.try_into().ok()?))),
            "torch.FloatStorage" => (4, |b| Some(f32::from_le_bytes(b.try_into().ok()?).into())),
            "torch.HalfStorage" => (2, |b| Some(half::f16::from_le_bytes(b.try_into().ok()?).to_f64())),
            "torch.BFloat16Storage" => (2, |b| Some(half::bf16::from_le_bytes(b.try_into().ok()?).to_f64())),
            other => return Err(format!("has type {other}, expected a Half, BFloat16, Float or Double storage")),
        };
        let misfit = || format!("does not fit into its storage of {} bytes", bytes.len());
        let n = self.shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m)).ok_or_else(misfit)?;
        *budget = budget.checked_sub(n).ok_or("is larger than its file")?;
        let mut data = Vec::with_capacity(n);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..n {
            let element = index
                .iter()
                .zip(&self.strides)
                .try_fold(self.offset, |at, (&k, &step)| at.checked_add(step.checked_mul(k)?));
            let range = element.and_then(|e| e.checked_mul(width)).and_then(|at| Some(at..at.checked_add(width)?));
            data.push(range.and_then(|range| decode(bytes.get(range)?)).ok_or_else(misfit)?);
            for (k, &m) in index.iter_mut().zip(&self.shape).rev() {
                *k += 1;
                if *k < m {
                    break;
                }
                *k = 0;
            }
        }
        Ok(Array { shape: self.shape.clone(), data })
    }
}

/// Tensors of a file, and the configuration that a checkpoint keeps beside them.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub tensors: BTreeMap<String, Array>,
    pub config: Option<serde_json::Value>,
}

/// Keys under which checkpoints keep their state dict.
const STATE_DICT_KEYS: [&str; 3] = ["model_state_dict", "state_dict", "model"];

/// Reads the tensors of a state dict, or of a checkpoint that holds one.
///
/// # Errors
/// What is wrong with the file, in words.
pub(super) fn read(bytes: &[u8]) -> Result<Checkpoint> {
    let mut archive = Archive::open(bytes)?;
    let root = archive
        .zip
        .file_names()
        .filter_map(|name| name.ok().map(|name| name.into_owned()))
        .find(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
        .ok_or("it has no data.pkl")?;
    let folder = root.trim_end_matches("data.pkl").to_string();
    if archive.record(&format!("{folder}byteorder")).is_ok_and(|order| order == b"big") {
        return Err("its numbers are big-endian".into());
    }
    let pickle = Pickle::parse(&archive.record(&root)?)?;
    if pickle.dict(pickle.root).is_none() {
        return Err(format!("it holds {}, expected a state dict", pickle.describe(pickle.root)));
    }
    let state = STATE_DICT_KEYS
        .into_iter()
        .find_map(|key| pickle.entry(pickle.root, key).filter(|&id| pickle.dict(id).is_some()));
    let config =
        state.and_then(|_| pickle.entry(pickle.root, "config")).and_then(|id| pickle.to_json(id, 0, &mut 10_000));

    let mut budget = bytes.len().saturating_mul(4).saturating_add(MAX_ELEMENTS_BEYOND_FILE);
    let mut storages = HashMap::new();
    let mut tensors = BTreeMap::new();
    for &(key, value) in pickle.dict(state.unwrap_or(pickle.root)).unwrap_or_default() {
        // Counters and the like, which checkpoints keep beside the weights, are passed over.
        let (Some(name), Some(view)) = (pickle.text(key), pickle.tensor(value)) else { continue };
        let array = view.and_then(|view| {
            if !storages.contains_key(view.storage) {
                storages.insert(view.storage, archive.record(&format!("{folder}data/{}", view.storage))?);
            }
            view.read(&storages[view.storage], &mut budget)
        });
        tensors.insert(name.to_string(), array.map_err(|e| format!("tensor {name}: {e}"))?);
    }
    if tensors.is_empty() {
        return Err("it holds no tensors".into());
    }
    Ok(Checkpoint { tensors, config })
}

/// PyTorch's archive, held in memory.
struct Archive<'a> {
    zip: zip::ZipArchive<Cursor<&'a [u8]>>,
    /// Bytes that records may still have. PyTorch's are not packed, so that together they are no larger than the file; in a
    /// file made up, many names can stand for one record, or records overlap.
    left: u64,
}

impl<'a> Archive<'a> {
    /// The offset is given: PyTorch ends its archives with a ZIP64 directory where none is needed, and `zip`, looking for
    /// the offset by itself, takes that directory for data in front of the archive.
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
        let zip = zip::ZipArchive::with_config(config, Cursor::new(bytes)).map_err(|e| e.to_string())?;
        Ok(Archive { zip, left: bytes.len() as u64 })
    }

    fn record(&mut self, name: &str) -> Result<Vec<u8>> {
        let entry = self.zip.by_name(name).map_err(|e| format!("record {name}: {e}"))?;
        let mut bytes = Vec::new();
        entry.take(self.left + 1).read_to_end(&mut bytes).map_err(|e| format!("record {name}: {e}"))?;
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            format!("record {name}: all records together are larger than the file: they overlap, which torch.save does not write")
        })?;
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "pickle_tests.rs"]
mod tests;
