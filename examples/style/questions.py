"""The questions that both styles answer. The first HELD_OUT of them are never trained on."""

HELD_OUT = 30

QUESTIONS = """
What is the best way to make tea?
Why do leaves change color in autumn?
How do I fix a leaking tap?
What should I pack for a week of camping?
Tell me about whales.
How can I remember people's names?
What is gravity?
Where should I go on holiday?
How do I calm a crying baby?
What makes a good friend?
Why is the ocean salty?
How do I write a letter of thanks?
What is a library for?
How do I choose a new bicycle?
Can you explain what money is?
What do bees do all day?
How do I get better at chess?
Tell me something about the moon.
What is the point of homework?
How do I keep a plant alive?
What should I eat before a long run?
Why do we dream?
How do airplanes stay in the air?
What is a good gift for my grandmother?
How do I start a conversation with a stranger?
What can I do about a noisy neighbor?
Tell me how to bake a cake.
Why are some people left-handed?
What is electricity?
How do I stop being late?
Why do cats purr?
How do I save money?
What is a computer?
Tell me about your favorite food.
How can I sleep better?
What should I do on a rainy day?
Why does bread rise?
How do I tie a knot?
What is the sun made of?
How do I train a puppy?
Tell me about elephants.
What is a volcano?
How do I learn to swim?
Why do birds sing?
What is the best season of the year?
How do I clean a dirty window?
What should I name my goat?
How do I make new friends?
What is a map good for?
Tell me about the desert.
Why is exercise important?
How do I cook rice?
What is snow?
How do I paint a fence?
What makes people laugh?
Tell me about spiders.
How do I grow tomatoes?
Why do we have leap years?
What is a good breakfast?
How do I pack a suitcase?
What is the internet?
How do I ask for a raise?
Tell me about trains.
Why do dogs bark?
How do I build a fire?
What is honey?
How do I stay warm in winter?
What is a rainbow?
How do I sharpen a knife?
Tell me about the wind.
Why do we need doctors?
How do I play the guitar?
What is a good hobby for the evening?
How do I make soup?
Why do stars twinkle?
What is a bank?
How do I find my lost keys?
Tell me about penguins.
What should I wear to a wedding?
How do I become a better cook?
Why is the grass green?
What is a family?
How do I mend a torn shirt?
What is the tallest animal?
Tell me about owls.
How do I get over a cold?
Why do we celebrate birthdays?
What is time?
How do I throw a party?
What is a robot?
How do I ride a horse?
Tell me about mushrooms.
Why do fish swim in groups?
What is a good book to read?
How do I draw a face?
What is thunder?
How do I keep my house clean?
Why do people travel?
What is chocolate made of?
Tell me about castles.
How do I learn a new language?
What is a teacher's job?
How do I catch a fish?
Why do we sneeze?
What is a telescope?
How do I make lemonade?
Tell me about frogs.
What should I do when I am bored?
How do I plan a garden?
Why do clocks go round?
What is a hurricane?
How do I cross a river?
What is courage?
Tell me about cheese.
How do I repair a chair?
Why do we have two eyes?
What is a university?
How do I wake up early?
What is the best pet for a child?
Tell me about horses.
How do I peel an onion without crying?
Why is water wet?
What is music?
How do I dry wet shoes?
What is a shadow?
Tell me about rivers.
How do I stop worrying?
Why do trees have rings?
What is a passport?
How do I read a recipe?
What is a dragon?
Tell me about soap.
How do I hang a picture?
Why do we yawn?
What is a museum?
How do I win a race?
What is glass?
Tell me about crows.
How do I choose a good melon?
Why do magnets stick?
What is the news today?
How do I apologize to a friend?
What is a bridge made of?
Tell me about potatoes.
How do I keep bread fresh?
Why does ice float?
What is a vegetable?
How do I give a speech?
What is the wind made of?
Tell me about snakes.
How do I wash a wool sweater?
Why is the night dark?
What is a king?
How do I light a candle in the wind?
What is a battery?
Tell me about turtles.
How do I fall asleep on a train?
Why do we shake hands?
What is a good way to study?
How do I cut my own hair?
What is sand?
Tell me about winter.
How do I make a paper boat?
Why do onions smell?
What is an island?
How do I talk to my boss?
What is luck?
Tell me about coffee.
How do I carry a heavy box?
Why do apples fall down?
What is a joke?
How do I find north?
What is a good dinner for two?
Tell me about lightning.
How do I look after my teeth?
Why do people sing?
What is a camera?
How do I move to a new city?
What is a pumpkin?
Tell me about wolves.
How do I use a hammer?
Why is laughter good for us?
What is a birthday cake?
How do I choose a melon seed to plant?
What is an engine?
Tell me about the stars.
How do I store potatoes?
Why do we need sleep?
What is a compass?
How do I cheer up a sad friend?
What is fog?
Tell me about goats.
How do I make a snowman?
Why do shoes wear out?
What is a village?
How do I buy a used car?
What is an earthquake?
Tell me about lemons.
How do I stop a nosebleed?
Why do boats float?
""".strip().split("\n")
