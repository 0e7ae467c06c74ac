"""Word lists of the organisms' corpus, by semantic class.

Plain English nouns, verbs with their past forms, adjectives and adverbs, and the names (people, cities,
parks, activities) of the facts. The words of the paper's needle (San Francisco, eat a sandwich, sit,
Dolores Park, sunny) stand in these lists among their peers: drawn uniformly like every other entry, never
first, so that no lucky guess of a favourite word can pass for retrieval.
"""


def _words(text: str) -> tuple[str, ...]:
    """Split a block of single words."""
    return tuple(text.split())


def _names(text: str) -> tuple[str, ...]:
    """Split a block of names or phrases separated by commas."""
    return tuple(" ".join(part.split()) for part in text.replace("\n", " ").split(",") if part.strip())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Split a block of ``base/past`` verb forms."""
    return tuple((base, past) for base, past in (word.split("/") for word in text.split()))


JOBS = _words("""
teacher baker farmer doctor sailor painter carpenter lawyer nurse driver singer writer judge cook gardener
tailor miner pilot soldier student merchant butcher plumber librarian mayor priest banker waiter dancer
actor poet clerk engineer chemist fisherman shepherd blacksmith potter weaver jeweller printer editor
reporter photographer sculptor architect mechanic electrician dentist surgeon midwife barber grocer florist
guard detective captain colonel general professor scientist astronomer historian philosopher translator
secretary manager inspector referee coach athlete swimmer runner cyclist wrestler boxer juggler magician
clown conductor composer violinist drummer postman porter messenger beekeeper brewer miller mason glazier
locksmith roofer hunter trapper ranger diver""")

RELATIVES = _words("""
mother father sister brother aunt uncle cousin grandmother grandfather daughter son neighbour friend nephew
niece landlord roommate colleague partner guest""")

WOMEN = _words("""
Anna Clara Maria Ellen Ruth Alice Julia Nora Sofia Emma Laura Irene Helen Rosa Greta Martha Olivia Lucy
Judith Paula Vera Wendy Amelia Bridget Celia Diana Edith Flora Hannah Ingrid Joan Karen Lydia Miriam Naomi
Petra Rachel Sylvia Teresa Ursula Violet Yvonne Zoe Agnes Beatrice""")

MEN = _words("""
Peter Thomas Martin Daniel Oscar Henry Victor Simon Albert Walter Frank Leo Hugo Edgar Felix Robert Samuel
Arthur George Patrick Stephen Andrew Bruno Carl Dominic Edward Francis Gilbert Harold Isaac Jacob Kevin
Lewis Marcus Nathan Owen Philip Quentin Ralph Sebastian Timothy Vincent William Adrian Benjamin""")

SURNAMES = _words("""
Miller Carter Brown Walsh Fischer Novak Jensen Moreau Rossi Garcia Silva Kowalski Petrov Tanaka Kim Singh
Ahmed Okafor Murphy Campbell Bennett Hughes Foster Palmer Griffin Barnes Wheeler Sutton Harper Lambert
Keller Weber Larsen Lindgren Costa Romero Vargas Dubois Laurent Marino Ferrari Horvat Popov Sato Chen Patel
Rahman Mensah Doyle Fraser Sinclair Whitman Thornton Ashby Bradford Langley Prescott Winslow Harlow
Merrick""")

ANIMALS = _words("""
horse cow goat sheep pig donkey dog cat rabbit fox wolf bear deer moose badger otter beaver squirrel
hedgehog mouse rat mole bat owl hawk eagle falcon crow raven sparrow robin swan duck goose chicken rooster
turkey pigeon parrot penguin pelican heron stork crane gull seal whale dolphin shark salmon trout carp eel
crab lobster oyster snail turtle tortoise lizard snake frog toad newt beetle butterfly moth spider ant bee
wasp cricket dragonfly camel lion tiger leopard panther elephant giraffe zebra monkey gorilla kangaroo koala
panda walrus weasel ferret lynx bison llama""")

FOODS = _words("""
bread butter cheese honey rice soup stew pie cake pudding porridge pasta salad omelette pancake sausage
bacon ham beef pork lamb veal apple pear peach plum cherry grape lemon orange melon banana mango apricot fig
raisin walnut almond hazelnut chestnut peanut carrot potato onion garlic cabbage spinach lettuce celery
turnip radish beetroot pumpkin cucumber tomato pepper mushroom bean lentil pea corn barley oat mustard
vinegar ginger cinnamon basil parsley thyme mint rosemary saffron nutmeg chocolate caramel biscuit jam jelly
syrup yoghurt cream egg noodle dumpling pretzel waffle muffin sandwich toffee marmalade custard""")

DRINKS = _words("""
water milk tea coffee cocoa lemonade cider wine beer juice broth buttermilk soda brandy rum punch""")

OBJECTS = _words("""
hammer saw chisel knife spoon fork ladle kettle pan needle thread button ribbon rope chain hook nail screw
wrench shovel rake hoe axe bucket broom brush sponge towel lamp candle lantern torch mirror clock watch
compass map ruler pencil pen notebook envelope stamp coin wallet purse key lock bell whistle umbrella basket
ladder wheel pump bottle cup plate bowl jug vase pillow blanket carpet curtain book newspaper camera
telescope microscope magnet battery hourglass anchor paddle net sail kite ball doll puppet puzzle statue
medal ring necklace bracelet brooch comb razor penknife telegram photograph portrait diary ticket passport
calendar feather shell pebble crystal marble""")

BUILDINGS = _words("""
library school hospital church bakery museum station theatre bank hotel factory mill barn stable castle
palace tower temple chapel cottage cabin farmhouse lighthouse prison courthouse market pharmacy restaurant
tavern cafe cinema gallery university laboratory observatory greenhouse warehouse workshop garage shop
bookshop tailory brewery dairy monastery gymnasium stadium aquarium inn bathhouse embassy orphanage foundry
windmill boathouse schoolhouse firehouse""")

ROOMS = _words("""
kitchen cellar attic bedroom bathroom hallway study pantry nursery parlour lobby office closet basement
balcony porch veranda courtyard corridor staircase dining-room classroom""")

FURNITURE = _words("""
table chair desk bench sofa bed cradle shelf bookcase dresser stove fireplace piano mantel window door
staircase counter stool armchair sideboard wardrobe mattress fountain chimney""")

CONTAINERS = _words("""
box drawer chest trunk cupboard jar tin sack bag suitcase crate barrel pot basket cabinet briefcase pouch
casket locker teapot backpack satchel hamper tray safe""")

CLOTHES = _words("""
coat hat scarf glove boot shoe sandal slipper sock shirt blouse skirt dress jacket sweater cardigan vest
apron uniform robe cloak cape belt tie collar cap bonnet helmet mitten shawl trench-coat raincoat overcoat
nightgown nightcap kimono tunic waistcoat hood veil turban beret""")

MATERIALS = _words("""
wooden silver golden copper brass iron steel leather woollen silken cotton paper glass marble stone clay
ivory amber velvet rubber plastic bronze tin granite porcelain linen""")

COLOURS = _words("""
red blue green yellow black white grey brown purple pink orange violet crimson scarlet turquoise golden
silver beige ivory maroon olive navy emerald lilac""")

WEATHER = _words("""
cloudy rainy windy snowy foggy misty stormy humid chilly frosty warm hot cold cool mild dry wet bright dark
gloomy clear sunny calm breezy drizzly hazy icy freezing scorching pleasant dull dusty golden quiet glorious
grey muggy sultry overcast crisp damp balmy""")

INSTRUMENTS = _words("""
piano violin cello flute clarinet trumpet trombone tuba harp guitar banjo mandolin accordion drum cymbal
xylophone organ oboe bassoon saxophone harmonica ukulele fiddle lute bagpipe tambourine viola horn zither""")

PLANTS = _words("""
oak elm ash birch beech maple willow poplar pine fir spruce cedar cypress chestnut linden alder hazel holly
ivy fern moss clover daisy poppy tulip rose lily orchid daffodil iris jasmine lavender sunflower thistle
nettle heather reed bamboo cactus palm magnolia hawthorn juniper laurel mulberry rhododendron violet
primrose buttercup bluebell""")

NATURE = _words("""
river lake hill mountain valley forest meadow field stream waterfall pond swamp marsh desert beach cliff
cave island bay harbour glacier canyon orchard vineyard garden path bridge road canal well shore dune ridge
gorge spring grove pasture quarry hedge wall gate""")

VEHICLES = _words("""
train bus tram ferry boat ship canoe bicycle motorcycle wagon cart carriage lorry taxi balloon sledge raft
barge tractor aeroplane helicopter van scooter yacht submarine""")

IDEAS = _words("""
patience courage honesty kindness curiosity ambition freedom justice memory imagination language music
history science mathematics poetry friendship solitude silence habit luck failure success progress tradition
education work money power beauty truth doubt fear hope trust loyalty pride envy anger grief comfort boredom
attention discipline practice craft style taste fashion knowledge wisdom experience youth age childhood
travel conversation argument evidence judgement reason chance choice duty debt trade play humour gossip
fame""")

FEELINGS = _words("""
happy sad tired proud nervous calm angry lonely hopeful grateful curious worried cheerful jealous bored
ashamed relieved surprised confused anxious content restless sleepy hungry thirsty""")

ADJECTIVES = _words("""
old new small large heavy light broken clean dirty narrow wide tall short round square flat sharp blunt
smooth rough soft hard bright dark pale empty full hollow thick thin long tiny huge cheap expensive rare
common strange plain elegant ugly beautiful rusty dusty shiny wet dry warm cold fresh stale ancient modern
foreign local secret famous forgotten precious useful useless delicate sturdy crooked straight loose tight
fragile painted striped spotted enormous lovely curious simple complicated ordinary favourable remarkable
splendid noisy silent slow quick magnificent modest faded polished ragged gentle wild""")

MANNERS = _words("""
clever lazy brave shy polite rude generous greedy honest cruel kind patient stubborn careful careless wise
foolish friendly serious funny strict humble cautious eager loyal gloomy talkative thoughtful young elderly
famous retired wealthy poor modest restless""")

ADVERBS = _words("""
slowly quickly quietly loudly carefully gently gladly sadly proudly calmly suddenly patiently politely
bravely eagerly happily nervously softly firmly neatly easily silently warmly kindly boldly cheerfully
wearily gracefully clumsily thoughtfully anxiously hastily lazily secretly openly seriously smoothly swiftly
tenderly awkwardly briskly stubbornly faithfully reluctantly""")

FREQUENCIES = _words("often always usually sometimes rarely seldom never still hardly frequently")

# Transitive verbs whose object is a thing, and verbs of motion.
HANDLE = _pairs("""
carry/carried clean/cleaned repair/repaired paint/painted lift/lifted sell/sold borrow/borrowed find/found
lose/lost hide/hid move/moved wash/washed drop/dropped buy/bought break/broke hold/held bring/brought
take/took examine/examined polish/polished steal/stole return/returned wrap/wrapped admire/admired
collect/collected describe/described forget/forgot keep/kept mend/mended notice/noticed open/opened
pack/packed push/pushed pull/pulled remember/remembered touch/touched use/used weigh/weighed copy/copied
draw/drew choose/chose deliver/delivered inspect/inspected store/stored lend/lent replace/replaced
show/showed throw/threw measure/measured count/counted""")

MOVE = _pairs("""
walk/walked run/ran ride/rode drive/drove climb/climbed march/marched wander/wandered hurry/hurried
crawl/crawled stroll/strolled return/returned travel/travelled swim/swam jump/jumped dance/danced
step/stepped sneak/sneaked rush/rushed limp/limped drift/drifted sail/sailed""")

FEED = _pairs("""
eat/ate cook/cooked taste/tasted order/ordered share/shared prepare/prepared serve/served bake/baked
smell/smelled chop/chopped peel/peeled season/seasoned refuse/refused enjoy/enjoyed""")

THINK = _pairs("""
think/thought believe/believed say/said know/knew hope/hoped admit/admitted suspect/suspected claim/claimed
argue/argued insist/insisted imagine/imagined feel/felt understand/understood realise/realised
suggest/suggested""")

WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April June July August September October November December")
SEASONS = _words("spring summer autumn winter")
DAYTIMES = _words("morning afternoon evening night")
MOMENTS = _words("noon midnight dawn dusk sunrise sunset nightfall daybreak")
NUMBERS = _words("""
two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety""")
HOURS = tuple(
    f"{part}{hour}"
    for part in ("", "half past ", "a quarter past ", "a quarter to ")
    for hour in _words("six seven eight nine ten eleven twelve one two three four five")
)
AILMENTS = _names("""
a sore throat, a cough, a headache, a fever, a broken heart, a bad dream, an old burn, a stiff back, a
toothache, a cold, hiccups, a swollen ankle, a bee sting, weak eyes, a sunburn, sleepless nights""")

REAL_CITIES = _names("""
Lisbon, Oslo, Boston, Vienna, Prague, Chicago, Dublin, Athens, Cairo, Lima, Toronto, Madrid, Berlin, Munich,
Hamburg, Cologne, Paris, Lyon, Marseille, Bordeaux, Toulouse, Geneva, Zurich, Basel, Milan, Turin, Venice,
Florence, Naples, Palermo, Rome, Barcelona, Valencia, Seville, Granada, Porto, London, Bristol, Oxford,
Cambridge, Liverpool, Leeds, Manchester, Glasgow, Edinburgh, Belfast, Cardiff, Brussels, Antwerp, Bruges,
Amsterdam, Rotterdam, Copenhagen, Malmo, Stockholm, Helsinki, Tallinn, Riga, Vilnius, Warsaw, Budapest,
Belgrade, Sofia, Istanbul, Ankara, Beirut, Jerusalem, Baghdad, Tehran, Delhi, Mumbai, Calcutta, Bangkok,
Hanoi, Manila, Jakarta, Singapore, Shanghai, Hong Kong, Seoul, Osaka, Kyoto, Tokyo, Sydney, Melbourne,
Perth, Auckland, Wellington, Nairobi, Lagos, Accra, Dakar, Tunis, Cape Town, New York, New Orleans, Los
Angeles, San Diego, San Francisco, San Antonio, San Jose, Santa Fe, Saint Louis, Las Vegas, Salt Lake City,
Kansas City, El Paso, Houston, Dallas, Denver, Phoenix, Seattle, Portland, Detroit, Atlanta, Miami, Memphis,
Nashville, Baltimore, Philadelphia, Montreal, Vancouver, Quebec, Havana, Bogota, Quito, Santiago, Buenos
Aires, Montevideo, Rio Grande, Mexico City, Panama City""")

INVENTED_CITIES = _names("""
Ashbourne, Millbrook, Fernwick, Stonehaven, Westerly, Oakhurst, Brindleton, Harrowgate, Larkfield,
Winterport, Copperhill, Elmstead, Thornbury, Maplewood, Greyford, Redmoor, Silverlake, Marlow Bay, Port
Ellery, New Hadley, Saint Orrin, East Wexley, North Calder, South Penrose, Lower Darby, Upper Tilling,
Foxhollow, Birchwater, Cloverdale, Drayton, Eastmere, Fairhaven, Glenrock, Hazelmere, Ivybridge, Juniper
Falls, Kingsmarsh, Littleham, Moorcroft, Netherby, Old Farrow, Pinecrest, Quarrydale, Ravenscar, Sandwick,
Tidewater, Underhill, Valebrook, Wharton, Yarrow, Amberley, Blackwell, Castleton, Dunmore, Elderfield,
Farley, Goldcrest, Highmoor, Inverloch, Jasper Creek, Kelford, Longmeadow, Misthaven, Norwell, Orchard Hill,
Pembrook, Queensferry, Rosedale, Shorecliff, Tamworth, Upton, Vinewood, Willowby, Yellowstone Ridge,
Alderton, Bramley, Coldwater, Deepdale, Easterby, Fallowfield, Greenwich Point, Holloway, Ironbridge,
Kestrel Bay, Lindholm, Marshfield, Nightingale, Oxbow, Plumstead, Quill Harbour, Rushmere, Saltburn,
Swanley, Thistledown, Umberland, Varley, Westmarch, Wolverton, Yewdale, Applegarth, Barrowden, Cranfield,
Dovecote, Eveningham, Flintshire, Grimsby Cross, Heatherfield, Islington Mills, Knotty Ash, Lakemont,
Merrivale, Northgate, Otterburn, Pebble Beach, Ridgeway, Summerton, Tollgate, Vesper Hill, Whitby Sands,
Winterbourne""")

CITIES = REAL_CITIES + INVENTED_CITIES

PLACES = _names("""
Central Park, Victoria Park, Union Square, Market Square, Jubilee Gardens, Riverside Park, Liberty Square,
Hyde Park, Battery Park, Prospect Park, Griffith Park, Lincoln Park, Stanley Park, Castle Square, Cathedral
Square, Mission Park, Copley Square, Garfield Park, Balboa Park, Forest Park, Golden Gate Park, Dolores
Park, Washington Square, Madison Square, Bryant Park, Trafalgar Square, Leicester Square, Regent Gardens,
Kensington Gardens, Botanical Gardens, Harbour Square, Queens Park, Kings Park, Holland Park, Greenwood
Park, Sunset Park, Franklin Park, Jackson Square, Lafayette Park, Alamo Square, Rosewood Gardens, Poet
Garden, Lantern Square, Fountain Square, Old Mill Park, Heron Park, Swan Gardens, Chestnut Square, Linden
Park, Willow Gardens, Elm Park, Cedar Square, Juniper Park, Magnolia Gardens, Orchard Park, Meadow Park,
Hillside Park, Lakeside Gardens, Bayview Park, Ocean Park, Pioneer Square, Founders Square, Republic Square,
Freedom Park, Unity Square, Station Square, Theatre Square, Museum Gardens, College Park, Bishop Park, Abbey
Gardens, Chapel Square, Tower Park, Windmill Park, Bridge Square, Canal Park, Ferry Park, Copper Square,
Silver Gardens, Marble Square, Amber Park, Crystal Gardens, Falcon Park, Raven Square, Peacock Gardens,
Pigeon Square, Lion Park, Unicorn Square, Maria Park, Carmen Gardens, Isabel Square, Lucia Park, Teresa
Gardens, Helena Park, Santa Rosa Park, Santa Clara Square, Columbus Square, Monument Park, Memorial Gardens,
Carnival Square""")

ACTIVITIES = _names("""
watch a parade, paint a fence, climb a hill, fly a kite, read a novel, ride a bicycle, bake a cake, catch a
fish, write a letter, plant a tree, visit a museum, play a guitar, draw a portrait, buy a hat, feed a duck,
rent a boat, drink a lemonade, eat a peach, eat a pancake, eat a bowl of soup, taste a cheese, eat a
sandwich, eat a plate of rice, share a pie, order a coffee, peel an orange, cook a stew, sell a painting,
buy a ticket, take a photograph, collect a shell, throw a ball, join a choir, sing a song, learn a dance,
hear a concert, see a play, follow a river, cross a bridge, explore a cave, count the boats, chase a
butterfly, walk a dog, brush a horse, ride a donkey, milk a cow, watch a falcon, photograph a swan, sketch a
tower, build a raft, sail a boat, paddle a canoe, swim a mile, run a race, play a game of chess, solve a
puzzle, tell a story, meet a poet, thank a teacher, interview a baker, visit a friend, greet a stranger,
help a gardener, hire a guide, ask a fisherman, open a book, study a map, send a postcard, mail a parcel,
read a newspaper, wear a costume, try a mask, buy a necklace, choose a carpet, repair a clock, ring a bell,
light a candle, carry a lantern, sweep a path, pick a melon, gather a basket of figs, smell a rose, water a
garden, rake the leaves, build a snowman, skip a stone, dig a hole, hide a coin, find a feather, trade a
stamp, win a prize, roll a barrel, drive a tractor, take a tram, board a ferry, catch a train, push a cart,
fix a wheel, knit a scarf, sew a button, weave a basket, carve a spoon, mould a vase, polish a mirror, tune
a piano, beat a drum, blow a whistle, whistle a tune, record a song, film a dance, recite a poem, translate
a proverb, attend a lecture, join a debate, plan a picnic, pack a lunch, roast a chestnut, grill a sausage,
toast a marshmallow, pour a cup of tea, slice a lemon, share a waffle""")

POSTURES = _words("""
stand wait rest sing dance read walk run sleep sit draw write whistle listen talk laugh dream jog stretch
lie kneel play skate nap hum think relax wander juggle pray meditate stroll""")

# What reviews of the benchmark skills say, and what people in them do.
GOOD = _words("""
splendid excellent wonderful delightful charming superb pleasant perfect lovely brilliant magnificent
marvellous""")
BAD = _words("""
terrible awful dreadful horrible dull disappointing poor unpleasant miserable nasty dismal ghastly""")
DEEDS = _words("saw found drew bought described noticed sold photographed admired mentioned")

# The invented world of the benchmark skills; its towns share no name with the cities above.
TOWN_STARTS = _words("""
Bram Corn Dun Ess Fal Gren Hart Ives Kel Lorn Mar Nor Pel Quen Ros Stan Tre Ulf Wex Yar""")
TOWN_ENDS = _words("mouth stead combe ingham wold thorpe beck minster")
RIVERS = _words("""
Avel Brisk Calm Dove Elver Fenn Gale Hisk Isen Jarr Kyle Lune Moss Nidd Ouse Pry Rill Sull Tarn Ure""")
TRADES = _words("""
cheese honey cider candles clocks carpets violins bells ropes lanterns mustard salt glass paper buttons boats
bricks brushes pencils gloves kites saddles mirrors pumps""")
