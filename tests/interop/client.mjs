// nats.js, told what to do line by line: a request is {"id", "verb", "given"}, an answer {"id", "told"} or {"id", "error"}.
// Bodies are base64, headers are pairs, so that both sides compare what was really on the wire.
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { ServiceError, Svcm } from "@nats-io/services";
import { connect, headers } from "@nats-io/transport-node";
import { blake2b } from "@noble/hashes/blake2.js";
import { createInterface } from "node:readline";

const nc = await connect({ servers: process.argv[2] });
const js = jetstream(nc);
const jsm = await jetstreamManager(nc);

// What lives from one request to the next: buckets, loaned messages, and what arrived without being asked for.
const buckets = new Map();
const loans = new Map();
const streams = new Map();
let numbers = 0;
const kept = (map, thing) => (map.set(String(++numbers), thing), String(numbers));

const bytes = (text) => Buffer.from(text ?? "", "base64");
const text = (data) => Buffer.from(data ?? []).toString("base64");
const withHeaders = (pairs) => {
  if (!pairs) return undefined;
  const made = headers();
  for (const [name, value] of pairs) made.append(name, value);
  return made;
};
const pairs = (given) => (given ? [...given].flatMap(([name, values]) => values.map((value) => [name, value])) : []);
const message = (msg) => ({ subject: msg.subject, data: text(msg.data), headers: pairs(msg.headers ?? msg.header) });
const loaned = (msg) => ({
  ...message(msg),
  loan: kept(loans, msg),
  sequence: msg.seq,
  attempt: msg.info.deliveryCount,
  stream: msg.info.stream,
});
const entry = (each) =>
  each && {
    key: each.key,
    value: text(each.value),
    revision: each.revision,
    operation: each.operation,
  };
const options = (given) => ({ ...given.options, headers: withHeaders(given.headers) });

// An endless iterator, drained into a list that `taken` reads.
const gathered = (iterator, shape) => {
  const arrived = [];
  (async () => {
    for await (const each of iterator) arrived.push(shape(each));
  })();
  return kept(streams, { iterator, arrived });
};
const all = async (iterator, shape = (each) => each) => {
  const found = [];
  for await (const each of iterator) found.push(shape(each));
  return found;
};

const settle = {
  ack: (msg) => msg.ack(),
  ack_confirmed: (msg) => msg.ackAck(),
  nak: (msg, given) => msg.nak(given.delay),
  term: (msg, given) => msg.term(given.reason),
  in_progress: (msg) => msg.working(),
};

const verbs = {
  // core
  publish: async (given) => {
    nc.publish(given.subject, bytes(given.data), { headers: withHeaders(given.headers) });
    await nc.flush();
  },
  request: async (given) =>
    message(
      await nc.request(given.subject, bytes(given.data), { timeout: 10_000, headers: withHeaders(given.headers) }),
    ),
  request_service: async (given) => {
    const reply = await nc.request(given.subject, bytes(given.data), { timeout: 10_000 });
    const error = ServiceError.toServiceError(reply);
    return error && { code: error.code, message: error.message };
  },
  subscribe: async (given) => {
    const subscription = nc.subscribe(given.subject, given.queue ? { queue: given.queue } : {});
    const number = gathered(subscription, message);
    await nc.flush();
    return number;
  },
  respond: async (given) => {
    const callback = (_, msg) => msg.respond(msg.data, { headers: msg.headers });
    nc.subscribe(given.subject, { callback });
    await nc.flush();
  },
  serve: async (given) => {
    const service = await new Svcm(nc).add({ name: "rooms", version: "1.0.0" });
    service.addEndpoint(given.name, (_, msg) => msg.respondError(given.code, given.message, bytes(given.data)));
    await nc.flush();
  },
  taken: (given) => streams.get(given.number).arrived,
  end: (given) => streams.get(given.number).iterator.stop(),

  // streams
  add_stream: async (given) => (await jsm.streams.add(given.config)).config,
  wire_id: ({ subject, key }) => Buffer.from(blake2b(Buffer.from(`${subject}\0${key}`), { dkLen: 16 })).toString("hex"),
  append: (given) => js.publish(given.subject, bytes(given.data), options(given)),
  append_atomic: async (given) => {
    const [first, ...rest] = given.entries;
    const last = rest.pop();
    const batch = await js.startBatch(first.subject, bytes(first.data), options(first));
    for (const each of rest) batch.add(each.subject, bytes(each.data), options(each));
    return await batch.commit(last.subject, bytes(last.data), options(last));
  },
  stored: async (given) => {
    const found = await jsm.streams.getMessage(given.stream, given.query);
    return found && { ...message(found), sequence: found.seq };
  },
  add_consumer: async (given) =>
    (await jsm.consumers.add(given.stream, { ack_policy: AckPolicy.Explicit, ...given.config })).config,
  consumer: async (given) => {
    const info = await jsm.consumers.info(given.stream, given.name);
    return { pending: info.num_pending, unsettled: info.num_ack_pending, config: info.config };
  },
  next: async (given) => {
    const consumer = await js.consumers.get(given.stream, given.name);
    const msg = await consumer.next({ expires: given.expires ?? 10_000 });
    return msg && loaned(msg);
  },
  settle: async (given) => await settle[given.how](loans.get(given.loan), given),
  consume: async (given) => {
    const consumer = await js.consumers.get(given.stream, given.name);
    return gathered(await consumer.consume(), (msg) => (msg.ack(), loaned(msg)));
  },
  read: async (given) => {
    const consumer = await js.consumers.get(given.stream, { filter_subjects: given.subject });
    return gathered(await consumer.consume({ expires: 2000 }), loaned);
  },

  // buckets
  open: async (given) => {
    buckets.set(given.bucket, await new Kvm(nc).open(given.bucket));
  },
  create_bucket: async (given) => {
    buckets.set(given.bucket, await new Kvm(nc).create(given.bucket, given.options));
  },
  bucket_status: async (given) => {
    const { bucket, values, history, ttl, markerTTL } = await buckets.get(given.bucket).status();
    return { bucket, values, history, ttl, markerTTL };
  },
  get: async (given) => entry(await buckets.get(given.bucket).get(given.key, given.options)),
  put: (given) => buckets.get(given.bucket).put(given.key, bytes(given.value), given.options),
  create: (given) => buckets.get(given.bucket).create(given.key, bytes(given.value), given.ttl),
  update: (given) => buckets.get(given.bucket).update(given.key, bytes(given.value), given.revision),
  delete: (given) => buckets.get(given.bucket).delete(given.key, given.options),
  purge: (given) => buckets.get(given.bucket).purge(given.key, given.options),
  keys: async (given) => await all(await buckets.get(given.bucket).keys(given.filter)),
  history: async (given) => await all(await buckets.get(given.bucket).history({ key: given.key }), entry),
  watch: async (given) => gathered(await buckets.get(given.bucket).watch(given.options), entry),
};

const say = (told) => process.stdout.write(`${JSON.stringify(told)}\n`);
const answer = async ({ id, verb, given }) => {
  try {
    say({ id, told: (await verbs[verb](given)) ?? null });
  } catch (error) {
    say({ id, error: { name: error.name, message: error.message, code: error.code ?? null } });
  }
};

say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) answer(JSON.parse(line));
await nc.close();
