module.exports = {
  async up(db) {
    const cards = db.collection("cards");
    let writes = [];
    const old = cards.find({ position: { $exists: false } }, { projection: { order: 1 } });
    for await (const card of old) {
      const change = { $set: { position: card.order ?? 0 }, $unset: { order: 1 } };
      writes.push({ updateOne: { filter: { _id: card._id }, update: change } });
      if (writes.length === 2000) {
        await cards.bulkWrite(writes, { ordered: false });
        writes = [];
      }
    }
    if (writes.length > 0) await cards.bulkWrite(writes, { ordered: false });
  },
  async down() {},
};
