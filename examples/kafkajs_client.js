// kafkajs, a Kafka client for node: `npm install kafkajs`, then `node examples/kafkajs_client.js HOST:PORT`, topic
// `orders`. It produces and looks after topics; its consumers need groups, which rlog does not have yet.

const { Kafka, logLevel } = require('kafkajs')

async function main(bootstrap) {
  const kafka = new Kafka({ brokers: bootstrap.split(','), logLevel: logLevel.ERROR })
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  const messages = [{ key: '42', value: 'delivered' }]
  const [{ partition, baseOffset }] = await producer.send({ topic: 'orders', messages, acks: -1 })
  console.log('flushed on a majority: partition', partition, 'offset', baseOffset)
  await producer.disconnect()

  const admin = kafka.admin()
  await admin.connect()
  const partitions = await admin.fetchTopicOffsets('orders')
  console.log('the log ends at', partitions.find(each => each.partition === partition).high)
  await admin.disconnect()
}

main(process.argv[2]).catch(error => {
  console.error(error)
  process.exit(1)
})
