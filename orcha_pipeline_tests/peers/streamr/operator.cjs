// Streamr's own Operator client: `node operator.cjs GRAPH-URL RPC-URL OPERATOR`. Prints all it can read as one line of
// JSON, big integers as strings; a call that fails is an error of the whole.
const { StreamrClient } = require('@streamr/sdk')

const [theGraphUrl, rpc, address] = process.argv.slice(2)
const client = new StreamrClient({
  metrics: false,
  auth: { privateKey: '0x' + '11'.repeat(32) }, // nothing is signed
  contracts: { ethereumNetwork: { chainId: 137 }, rpcs: [{ url: rpc }], theGraphUrl },
})

const read = async () => {
  const operator = client.getOperator(address)
  const found = {
    redundancyFactor: await operator.fetchRedundancyFactor(),
    earnings: await operator.getEarnings(1n, 20),
    sponsorships: await operator.getSponsorships(),
    heartbeat: await operator.getTimestampOfLastHeartbeat(),
  }
  // Concurrent calls go out as one batch.
  const [blockNumber, batchedEarnings] = await Promise.all([operator.getCurrentBlockNumber(), operator.getEarnings(1n, 20)])
  // What the node's own plug-ins read besides: who else is staked, flags, and the streams to serve.
  const [{ sponsorshipAddress }] = found.sponsorships
  const staked = []
  for await (const { sponsorship, streamId } of operator.pullStakedStreams(blockNumber - 10)) {
    staked.push({ sponsorshipAddress: sponsorship, streamId })
  }
  return {
    ...found,
    blockNumber,
    batchedEarnings,
    staked,
    operators: await operator.getStakedOperators(),
    operatorsInFirst: await operator.getOperatorsInSponsorship(sponsorshipAddress),
    streamOfFirst: await operator.getStreamId(sponsorshipAddress),
    firstIsFlagged: await operator.hasOpenFlag(sponsorshipAddress),
    expiredFlags: await operator.getExpiredFlags([sponsorshipAddress], 0),
  }
}

read().then(
  (found) => {
    console.log(JSON.stringify(found, (_key, value) => (typeof value === 'bigint' ? value.toString() : value)))
    process.exit(0) // the provider's timers would keep it alive
  },
  (error) => {
    console.error(error)
    process.exit(1)
  },
)
