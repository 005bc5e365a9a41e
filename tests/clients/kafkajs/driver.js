// kafkajs behind two verbs, for tests/clients/drivers/with_kafkajs.py: one process for each call.
//
//   node driver.js produce '{"bootstrap", "topic", "acks", "codec", "idempotent"}'
//     standard input: a JSON list of [key, value] on each line, all for one partition, sent as one batch;
//     standard output: for each line the answer, {partition: offset of its first record}.
//   node driver.js consume '{"bootstrap", "topic", "partition", "start", "ifGone"}'
//     standard output: a JSON list of [offset, key, value] on each line, until the process is ended. At an offset
//     that is not in the log it ends with status 1, or with ifGone "earliest" reads on at the log's start.
//   node driver.js bounds '{"bootstrap", "topic"}'
//     standard output: a JSON list of [start, end], one of each partition.
//   node driver.js offsetsAt '{"bootstrap", "topic", "partition", "times"}'
//     standard output: a JSON list of offsets, one of each time.
//   node driver.js deleteRecords '{"bootstrap", "topic", "partitions": [{"partition", "offset"}]}'
//     standard output: null.
//
// kafkajs has no consumer by assignment: its consumers are members of groups. So `consume` fetches through the
// broker objects that its consumer is made of: its connections, its requests, its decoder; the loop is ours.

const readline = require('readline')
const { Kafka, logLevel } = require('kafkajs')
const { CODECS } = require('./codecs')
const Cluster = require('kafkajs/src/cluster')
const createSocketFactory = require('kafkajs/src/network/socketFactory')
const { createLogger, LEVELS } = require('kafkajs/src/loggers')
const consoleLogger = require('kafkajs/src/loggers/console')

const EARLIEST = -2
const RETRY = { initialRetryTime: 100, maxRetryTime: 1000, retries: 120 }

const say = answer => new Promise(sent => process.stdout.write(JSON.stringify(answer) + '\n', sent))

async function produce({ bootstrap, topic, acks, codec, idempotent }) {
  const kafka = new Kafka({ clientId: 'rlog-tests', brokers: bootstrap.split(','), logLevel: logLevel.ERROR })
  // An idempotent producer retries for ever by itself, and warns when it is told otherwise.
  const producer = kafka.producer(idempotent ? { idempotent, maxInFlightRequests: 1 } : { retry: RETRY })
  await producer.connect()
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const messages = JSON.parse(line).map(([key, value]) => ({ key, value }))
    const answers = await producer.send({ topic, messages, acks, compression: CODECS[codec] })
    await say(Object.fromEntries(answers.map(({ partition, baseOffset }) => [partition, baseOffset])))
  }
  await producer.disconnect()
}

async function ask(bootstrap, question) {
  const kafka = new Kafka({ clientId: 'rlog-tests', brokers: bootstrap.split(','), logLevel: logLevel.ERROR })
  const admin = kafka.admin()
  await admin.connect()
  await say(await question(admin))
  await admin.disconnect()
}

const bounds = ({ bootstrap, topic }) => ask(bootstrap, async admin => {
  const found = await admin.fetchTopicOffsets(topic)
  found.sort((one, other) => one.partition - other.partition)
  return found.map(({ low, high }) => [low, high])
})

const offsetsAt = ({ bootstrap, topic, partition, times }) => ask(bootstrap, async admin => {
  const offsets = []
  for (const time of times) {
    const found = await admin.fetchTopicOffsetsByTimestamp(topic, time)
    offsets.push(found.find(each => each.partition === partition).offset)
  }
  return offsets
})

const deleteRecords = ({ bootstrap, topic, partitions }) => ask(bootstrap, async admin => {
  // deleteTopicRecords alone says "Topic metadata not loaded": it is for topics that this admin has met.
  await admin.fetchTopicOffsets(topic)
  await admin.deleteTopicRecords({ topic, partitions })
  return null
})

async function consume({ bootstrap, topic, partition, start, ifGone }) {
  const cluster = new Cluster({
    clientId: 'rlog-tests',
    brokers: bootstrap.split(','),
    logger: createLogger({ level: LEVELS.ERROR, logCreator: consoleLogger }),
    socketFactory: createSocketFactory(),
    connectionTimeout: 1000,
    requestTimeout: 30000,
    enforceRequestTimeout: true,
    metadataMaxAge: 300000,
    retry: RETRY,
    allowAutoTopicCreation: false,
    maxInFlightRequests: null,
    isolationLevel: 1,
  })
  await cluster.connect()
  await cluster.addTargetTopic(topic)
  const earliest = async () => {
    const asked = [{ topic, fromBeginning: true, partitions: [{ partition }] }]
    const [{ partitions }] = await cluster.fetchTopicsOffset(asked)
    return BigInt(partitions[0].offset)
  }
  let offset = start === EARLIEST ? await earliest() : BigInt(start)
  for (;;) {
    try {
      const [nodeId] = Object.keys(cluster.findLeaderForPartitions(topic, [partition]))
      const broker = await cluster.findBroker({ nodeId })
      const wanted = { partition, fetchOffset: offset.toString(), maxBytes: 1048576 }
      const { responses } = await broker.fetch({
        replicaId: -1,
        isolationLevel: 1,
        maxWaitTime: 500,
        maxBytes: 1048576,
        topics: [{ topic, partitions: [wanted] }],
      })
      const { messages } = responses[0].partitions[0]
      // A batch comes whole, from its first record on; control records are the protocol's, not the reader's.
      const fresh = messages.filter(message => BigInt(message.offset) >= offset)
      if (fresh.length > 0) offset = BigInt(fresh[fresh.length - 1].offset) + 1n
      const found = fresh.filter(message => !message.isControlRecord)
      if (found.length > 0) {
        await say(found.map(({ offset, key, value }) => [offset, key.toString(), value.toString()]))
      }
    } catch (error) {
      if (error.type === 'OFFSET_OUT_OF_RANGE') {
        if (ifGone !== 'earliest') throw error
        offset = await earliest()
        continue
      }
      console.error(`fetching again after ${error.name}: ${error.message}`)
      await new Promise(waited => setTimeout(waited, RETRY.initialRetryTime))
      await cluster.refreshMetadata().catch(failure => console.error(failure.message))
    }
  }
}

const [verb, settings] = process.argv.slice(2)
const run = { produce, consume, bounds, offsetsAt, deleteRecords }[verb]
run(JSON.parse(settings)).catch(error => {
  // Of several partitions each has an error of its own.
  console.error(error, (error.cause?.partitions ?? error.partitions ?? []).map(each => each.error))
  process.exit(1)
})
